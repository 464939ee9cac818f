"""What sentinels say while they replace a primary, and how soon that is known."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge import connection
from bridge.connection import Redis
from bridge.telemetry import PlacementChanged
from bridge.urls import topology_of
from tests.recorder import Recorder
from tests.servers import Server
from tests.topologies import Watched, ask
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("steady")
TOLD = re.search(r"redis-cli -p 26379 ACL SETUSER (chat .*?)```", Path("docs/operations.md").read_text(), re.DOTALL)
assert TOLD is not None
TOLD_RIGHTS = TOLD[1].replace("\\\n", " ").replace("'", "").split()
FEWER_RIGHTS = [right for right in TOLD_RIGHTS if right not in ("+psubscribe", "&*", "+ping", "+sentinel|replicas")]


@asynccontextmanager
async def silent(primary: Server, sentinel: Watched) -> AsyncIterator[None]:
    """Stopped: whoever does nothing there hears no word of its end."""
    sentinel.stop(primary)
    try:
        yield
    finally:
        await sentinel.heal()


@asynccontextmanager
async def following(url: str, events: Recorder) -> AsyncIterator[Redis]:
    redis = await Redis.connect(url, telemetry=events.telemetry)
    try:
        yield redis
    finally:
        await redis.close()


async def fail_over(sentinel: Watched) -> None:
    await until(sentinel._begun, what="a sentinel begins to fail over")


async def test_whoever_does_nothing_at_the_primary_is_told_of_the_next(
    sentinel: Watched, events: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("LOOK_EVERY_S", "LOOK_OFTEN_S"):
        monkeypatch.setattr(connection, pause, 3600)
    old = await sentinel.named()
    async with following(sentinel.url, events) as redis, silent(old, sentinel):
        await fail_over(sentinel)
        await events.wait_for(PlacementChanged)
        assert str(old.port) not in str(redis.placement.primaries)


async def test_a_replica_that_is_a_primary_is_one_before_its_sentinel_sees_that(sentinel: Watched) -> None:
    topology, old = topology_of(sentinel.url), await sentinel.named()
    replicas = [server for server in sentinel.servers if server is not old]
    for replica in replicas:
        await ask(replica, "ACL", "SETUSER", "default", "-info")
    try:
        await fail_over(sentinel)

        async def moved() -> bool:
            (endpoint,) = (await topology.look(1)).primaries
            return endpoint.port != old.port

        topology._restless_until = asyncio.get_running_loop().time() + 60  # type: ignore[attr-defined]
        await until(moved, 20, what="the promoted replica is found")
        assert await sentinel.named() is old
    finally:
        for replica in replicas:
            await ask(replica, "ACL", "SETUSER", "default", "+@all")
        await sentinel.promoted(old)


@pytest.mark.parametrize(("rights", "hears"), [(TOLD_RIGHTS, True), (FEWER_RIGHTS, False)], ids=["told", "fewer"])
async def test_a_user_of_the_sentinels_needs_the_rights_that_are_told(
    sentinel: Watched, events: Recorder, rights: list[str], hears: bool
) -> None:
    for watcher in sentinel.watchers:
        await ask(watcher, "ACL", "SETUSER", *rights)
    password = next(right[1:] for right in rights if right.startswith(">"))
    url = f"{sentinel.url}?sentinel_username=chat&sentinel_password={password}"
    try:
        async with following(url, events) as redis:
            old = await sentinel.named()
            await sentinel.fail_over(old, "forced")
            await events.wait_for(PlacementChanged)
            assert redis.topology.restless is hears
    finally:
        for watcher in sentinel.watchers:
            await ask(watcher, "ACL", "DELUSER", "chat")
