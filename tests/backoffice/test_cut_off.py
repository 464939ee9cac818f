"""A bulk call to a back office that is killed in its middle: what the audit chain tells, and how to go on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.child import Child
from bridge.config import BridgeSettings
from bridge.keys import Keys
from bridge.rest import NotAnswered, RestApi
from bridge.telemetry import Buried
from tests.backoffice.conftest import serving
from tests.backoffice.service import PASSWORD
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until

FIRST, SECOND, SHARD = 10, 100, 3  # letters of each call
SLOW_S = 0.02  # each way to Redis: the second call takes at least four seconds
TOKEN = "operator-token-0123456789"


@asynccontextmanager
async def office(redis_url: str, directory: Path) -> AsyncIterator[tuple[Child, RestApi]]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    own = {"BRIDGE_REDIS_URL": redis_url, "BRIDGE_SHARDS": "8", "BACKOFFICE_API_TOKENS": f"ann:operator:{TOKEN}",
           "BACKOFFICE_ADMIN_PASSWORD": PASSWORD, "BACKOFFICE_NAME": "office", "PYTHONPATH": str(Path.cwd()),
           "BACKOFFICE_DATABASE_URL": f"sqlite+aiosqlite:///{directory}/backoffice.sqlite3",
           "BRIDGE_JOURNAL": str(directory / "journal")}  # fmt: skip
    child = Child("office", "backoffice", directory, {**inherited, **own})
    await child.start()
    try:
        async with RestApi.connect(child.told["url"], TOKEN) as api:
            yield child, api
    finally:
        await child.stop()


async def entries(api: RestApi) -> list[dict[str, Any]]:
    """What the audit chain tells about dead letters, oldest first."""
    found = await api.call("GET", "/audit", query={"action": "dead_letters", "limit": 500})
    items: list[dict[str, Any]] = found["items"]
    return items[::-1]


async def test_of_a_bulk_call_to_an_office_that_is_killed_the_chain_tells_how_far_it_got(
    server: Server, bridge_settings: BridgeSettings, events: Recorder, tmp_path: Path
) -> None:
    keys, raw = Keys(), server.client()
    async with serving(bridge_settings, events):
        for _ in range(FIRST + SECOND):
            await raw.xadd(keys.commands(SHARD), {b"hello": b"world"})
        await events.wait_for_many(FIRST + SECOND, Buried, timeout=30)
    proxy = await Proxy.start(server.url, tmp_path)
    bulk: dict[str, Any] = {"filter": {"shard": SHARD}, "reason": "mended"}
    async with office(proxy.url, tmp_path) as (child, api):
        first = await api.call("POST", "/dead/requeue", {**bulk, "limit": FIRST})
        rest = {**bulk, "limit": SECOND, "cursor": first["next_cursor"]}
        proxy.delay(SLOW_S)
        second = asyncio.create_task(api.call("POST", "/dead/requeue", rest, wait_s=60))

        async def some_results() -> bool:
            return len([entry for entry in await entries(api) if entry["of"]]) >= FIRST + 3

        await until(some_results, 30)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(NotAnswered):
            await second
        await child.wait()
    proxy.drop()
    proxy.heal()
    async with office(proxy.url, tmp_path) as (_, api):
        sent = {id.decode(): new.decode() for id, new in (await raw.hgetall(keys.requeued(SHARD))).items()}
        told = await entries(api)
        wanted = {entry["target"] for entry in told if entry["result"] == "intended"}
        results = {entry["target"]: entry["result"] for entry in told if entry["of"]}
        assert len(wanted) == FIRST + SECOND > len(sent)
        assert len(sent) >= len(results) >= FIRST + 3  # what was done last has none, perhaps
        assert results == {id: f"done as {sent[id]}" for id in results}
        again = await api.call("POST", "/dead/requeue", rest, wait_s=60)
        assert {moved["id"] for moved in again["done"]} == wanted - sent.keys()
        assert (again["skipped"], again["next_cursor"]) == ([], None)
    await proxy.close()
    origins = [fields[b"origin"].decode() for _, fields in await raw.xrange(keys.commands(SHARD))]
    assert sorted(origins) == sorted(wanted)
