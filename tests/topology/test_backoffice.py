"""A back office at a cluster of which a primary is away that nobody replaces: it tells of that, and of all others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backoffice.history import History
from backoffice.records import Records
from bridge.client import Bridge
from bridge.errors import Unreachable
from tests.backoffice.conftest import serving
from tests.backoffice.service import TOKENS, Api, backoffice, settings
from tests.recorder import Recorder
from tests.topologies import ManyServers
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)
SHARDS = 12
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("whose", ["some shards'", "the nodes'"])
async def test_while_a_primary_is_away_the_back_office_goes_on_with_the_others(
    start_topology: Callable[..., Awaitable[ManyServers]],
    events: Recorder,
    whose: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backoffice.history.STALE_MS", 1000)  # open rows are asked for meanwhile
    monkeypatch.setattr("tests.backoffice.conftest.REDIS_S", 1.0)  # a fail-over is detected in twice that
    cluster = await start_topology(ManyServers, node_timeout_ms=2000, cluster_require_full_coverage="no")
    config = settings(cluster.url, shards=SHARDS)
    async with serving(config, events, shards=SHARDS) as node, backoffice(config, prompt=True) as api:
        of_nodes = await cluster.owner(node.keys.live)
        others = [server for server in await cluster.primaries() if server is not of_nodes]
        victim = of_nodes if whose == "the nodes'" else others[0]
        owners = [await cluster.owner(node.keys.commands(shard)) for shard in range(SHARDS)]
        away = [shard for shard in range(SHARDS) if owners[shard] is victim]
        there = next(shard for shard in range(SHARDS) if owners[shard] is not victim)
        await until(lambda: opened(api, room_in(node, there, 0)), 60)
        waiting = await until(lambda: issued_for_later(api, room_in(node, away[0], 0)), 60)
        for replica in await cluster.replicas(victim):
            replica.kill()
        cluster.stop(victim)
        try:
            await until(lambda: silent(api, away), 60, what="the shards of that primary are unknown, and no others")
            await until(lambda: alarmed(api, len(away)), 60, what="an alarm tells of them")
            async with Told(api) as live:
                await until(lambda: opened(api, room_in(node, there, 1)), 60)
                await live(room_in(node, there, 1))
            assert waiting in {item["id"] for item in (await api.get("/commands?limit=500")).json["items"]}
        finally:
            cluster.cont(victim)
        await until(lambda: silent(api, []), 60, what="all shards are known again")


async def test_what_repeats_dead_commands_of_a_primary_that_is_away_holds_up_no_other_rows(
    start_topology: Callable[..., Awaitable[ManyServers]], tmp_path: Path
) -> None:
    cluster = await start_topology(ManyServers, replicas=0, node_timeout_ms=2000, cluster_require_full_coverage="no")
    config = settings(cluster.url, shards=SHARDS)
    url = f"sqlite+aiosqlite:///{tmp_path}/history.sqlite3"
    async with Bridge.connect(config, timeout=1.0) as bridge, Records.open(url) as records:
        fed, victim = History(records, bridge), await cluster.owner(bridge.keys.commands(0))
        owners = [await cluster.owner(bridge.keys.commands(shard)) for shard in range(SHARDS)]
        there = next(shard for shard in range(SHARDS) if owners[shard] is not victim)
        rooms = [room_in(bridge, shard, 0) for shard in (0, there)]
        held, other = [(await bridge.publish("room.open", room, {}, by="ann")).id for room in rooms]

        async def away() -> bool:
            with suppress(Unreachable):
                await bridge.outcome(held)  # who asks for nothing notices nothing
            return bridge.inspector.away(0)

        cluster.stop(victim)
        try:
            await until(away, 60, what="the primary is away")
            fed.repeated(held)
            fed.repeated(other)
            await fed.step()
            assert [await fed.get(id) is not None for id in (held, other)] == [False, True]
        finally:
            cluster.cont(victim)

        async def kept() -> bool:
            await fed.step()
            return await fed.get(held) is not None

        await until(kept, 60, what="it is a row once the primary is back")


def room_in(bridge: Bridge, shard: int, index: int) -> str:
    """A room of that shard."""
    rooms = (f"room:r{n}" for n in range(10_000))
    return [room for room in (next(rooms) for _ in range(5000)) if bridge.shard_of(room) == shard][index]


async def opened(api: Api, room: str) -> bool:
    return bool((await api.issue("room.open", room, {}, wait=10)).json.get("state") == "done")


async def issued_for_later(api: Api, room: str) -> str | None:
    """The command's id."""
    answer = await api.issue("room.open", room, {}, deliver_at=TOMORROW, key="one")
    return answer.json["id"] if answer.status in (200, 202) else None


async def silent(api: Api, shards: list[int]) -> bool:
    """Whether just these have no figures."""
    answer = await api.get("/shards")
    if answer.status != 200:
        return False
    items = answer.json["items"]
    assert [item["shard"] for item in items] == list(range(SHARDS))
    assert all(item["holder"] is None for item in items if item["length"] is None)
    return [item["shard"] for item in items if item["length"] is None] == shards


async def alarmed(api: Api, shards: int) -> bool:
    alarms = {alarm["code"]: alarm for alarm in (await api.get("/alarms")).json["items"]}
    if not {"no_redis", "no_holder"} <= alarms.keys():
        return False
    return bool(alarms["no_redis"]["message"] == f"Redis does not answer for {shards} of {SHARDS} shards")


class Told:
    """While entered: commands as they end. ``await live(room)`` returns once one for that room is told."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._heard: list[str] = []
        self._listening: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Callable[[str], Awaitable[Any]]:
        connected = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(connected), name="live")
        await connected.wait()
        return self._until

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _until(self, room: str) -> None:
        await until(lambda: any(room in line for line in self._heard), 60, what=f"{room} is told")

    async def _listen(self, connected: asyncio.Event) -> None:
        headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
        url = f"{self._api.url}/api/v1/live?topics=commands"
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as stream:
            connected.set()
            async for line in stream.content:
                self._heard.append(line.decode())
