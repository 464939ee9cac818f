"""A primary that nobody replaces holds up its own shards only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.errors import BridgeError, Unreachable
from chatserver.state import ChatState
from tests.chatserver.conftest import Chat
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.recorder import Recorder
from tests.topologies import ManyServers
from tests.topology.party import Party, gap_of
from tests.waiting import answered

pytestmark = pytest.mark.timeout(300)
AWAY_S = 4.0
SETTINGS = {"timeout": 1.0}  # as services have it: longer than what is left of a lease between two renewals


@pytest.mark.parametrize("whose", ["some shards'", "the nodes'"])
async def test_while_a_primary_is_away_other_shards_go_on(
    start_topology: Callable[..., Awaitable[ManyServers]], events: Recorder, whose: str, full: bool, figures: Figures
) -> None:
    cluster = await start_topology(ManyServers, node_timeout_ms=2000, cluster_require_full_coverage="no")
    async with Party.meet(cluster.url, events, nodes=("node-a", "node-b", "node-c"), **SETTINGS) as party:
        keys, shard_of = party.publisher.keys, party.publisher.shard_of
        of_nodes = await cluster.owner(keys.live)
        victim = of_nodes
        if whose == "some shards'":
            victim = next(server for server in await cluster.primaries() if server is not of_nodes)
        async with party.load(per_s=40) as load:
            elsewhere = [
                room for room in load.rooms if await cluster.owner(keys.commands(shard_of(room))) is not victim
            ]
            await load.more(60)
            for replica in await cluster.replicas(victim):
                replica.kill()
            states = asyncio.create_task(seen_states(party, AWAY_S))
            cluster.stop(victim)
            await states
            cluster.cont(victim)
            await party.all_rooms_go_on(load)
        await party.drained()
        (await party.audit(load)).clean()
    gap = max(gap_of(load, room) for room in elsewhere)
    figures.report(f"cluster: {whose} primary away for {AWAY_S:g} s", rooms_elsewhere=len(elsewhere), write_gap_s=gap)
    assert 0 < len(elsewhere) < len(load.rooms)
    assert gap < (AWAY_S / 2 if full else AWAY_S * 0.9)  # this process may have been held up as well
    assert states.result()["dead"] <= 3  # all of them in one look, right after this process was held up
    if whose == "some shards'":
        assert states.result()["live"]


async def test_members_of_rooms_elsewhere_keep_their_places_while_a_primary_is_away(
    start_topology: Callable[..., Awaitable[ManyServers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.control.SIGN_OF_LIFE_S", 0.2)
    cluster = await start_topology(ManyServers, node_timeout_ms=2000, cluster_require_full_coverage="no")
    settings = BridgeSettings(redis_url=SecretStr(cluster.url), shards=12)
    async with Bridge.connect(settings) as bridge:
        chat, keys = Chat(bridge, settings), bridge.keys
        of_nodes = await cluster.owner(keys.live)
        victim = next(server for server in await cluster.primaries() if server is not of_nodes)
        owners = [await cluster.owner(keys.commands(shard)) for shard in range(bridge.shards)]
        of_shard = {bridge.shard_of(f"room:r{i}"): f"r{i}" for i in range(300)}
        away, there = (
            [room for shard, room in of_shard.items() if (owners[shard] is victim) == is_away]
            for is_away in (True, False)
        )
        user = next(f"u{i}" for i in range(99) if owners[bridge.shard_of(f"user:u{i}")] is not victim)
        try:
            node = await answered(chat.start_node)
            for room in (away[0], there[0]):
                await chat.done("room.open", f"room:{room}")
            client = await chat.client(node, user, away[0], there[0])
            for replica in await cluster.replicas(victim):
                replica.kill()
            cluster.stop(victim)
            shard = bridge.shard_of(f"room:{there[0]}")
            await bridge.redis.call("SET", keys.state(shard, f"room:{there[0]}", f"kicked:{user}"), 1 << 50)
            await client.push("sanction", kind="kick", room=there[0])
            await only_the_rooms_of_one_primary_wait(bridge, monkeypatch, away, there)
        finally:
            cluster.cont(victim)
            await chat.close()


async def only_the_rooms_of_one_primary_wait(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, away: list[str], there: list[str]
) -> None:
    """And it is asked once, however many there are: each call takes as long as a call may."""
    calls, run = 0, bridge.redis.run

    async def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return await run(*arguments)

    monkeypatch.setattr(bridge.redis, "run", counted)
    rooms = away + there
    found = await ChatState(bridge, "x").rooms_now(dict.fromkeys(rooms, b""))
    assert [room for room in rooms if isinstance(found[room], Unreachable)] == away
    assert calls == 1 + len(there)


async def seen_states(party: Party, seconds: float) -> Counter[str]:
    """How nodes looked meanwhile."""
    seen: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    over = loop.time() + seconds
    while loop.time() < over:
        try:
            seen.update(node.state for node in await party.listener.inspector.nodes(with_lag=False))
        except BridgeError as error:
            seen[type(error).__name__] += 1
        await elapsed(0.05)
    return seen
