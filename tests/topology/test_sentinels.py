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
from bridge.link import Endpoint
from bridge.sentinel import Sentinel
from bridge.telemetry import PlacementChanged, StepFailed
from bridge.urls import topology_of
from tests.recorder import Recorder
from tests.servers import Server
from tests.topologies import Watched, ask, role
from tests.waiting import until

WORDS = [
    (b"+switch-master", b"chat 10.0.0.1 6379 10.0.0.2 6379", True),
    (b"+switch-master", b"other 10.0.0.1 6379 10.0.0.2 6379", False),
    (b"+try-failover", b"master chat 10.0.0.1 6379", True),
    (b"+odown", b"master chat 10.0.0.1 6379 #quorum 2/2", True),
    (b"+odown", b"master master 10.0.0.1 6379 #quorum 2/2", False),
    (b"+promoted-slave", b"slave 10.0.0.2:6379 10.0.0.2 6379 @ chat 10.0.0.1 6379", True),
    (b"+promoted-slave", b"slave 10.0.0.2:6379 10.0.0.2 6379 @ other 10.0.0.1 6379", False),
    (b"+sdown", b"slave 10.0.0.2:6379 10.0.0.2 6379 @ chat 10.0.0.1 6379", False),
    (b"-sdown", b"sentinel abc 10.0.0.3 26379 @ chat 10.0.0.1 6379", False),
    (b"+new-epoch", b"7", False),
]

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


async def test_a_replica_that_is_a_primary_is_one_before_its_sentinel_sees_that_and_for_a_while_only(
    sentinel: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology, old = topology_of(sentinel.url), await sentinel.named()
    assert isinstance(topology, Sentinel)
    replicas = [server for server in sentinel.servers if server is not old]
    for replica in replicas:
        await ask(replica, "ACL", "SETUSER", "default", "-info")
    try:

        async def placed() -> int:
            (endpoint,) = (await topology.look(60)).primaries  # longer than the test waits for one that is silent
            return endpoint.port

        async def promoted() -> bool:
            return "master" in [await role(replica) for replica in replicas]

        async def moved() -> bool:
            return await placed() != old.port

        async def back() -> bool:
            return await placed() == old.port

        topology._restless_until = asyncio.get_running_loop().time() + 60
        sentinel.stop(old)
        try:
            await fail_over(sentinel)
            await until(promoted, 20, what="a replica is promoted")
            await until(moved, 20, what="the promoted replica is found")
        finally:
            sentinel.cont(old)
        assert await sentinel.named() is old
        for limit in ("UNCONFIRMED_S", "UNCONFIRMED_KEPT_S"):
            monkeypatch.setattr("bridge.sentinel." + limit, 0)
        await until(back, 20, what="it is given up, as no sentinel says that it is one")
    finally:
        for replica in replicas:
            await ask(replica, "ACL", "SETUSER", "default", "+@all")
        await sentinel.healthy()


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
            assert bool(events.all(StepFailed, name="topology-listen")) is not hears
    finally:
        for watcher in sentinel.watchers:
            await ask(watcher, "ACL", "DELUSER", "chat")


@pytest.mark.parametrize(("event", "words", "tells"), WORDS)
def test_what_comes_and_goes_elsewhere_is_no_word_of_the_primary(event: bytes, words: bytes, tells: bool) -> None:
    assert Sentinel([], "chat", Endpoint())._is_about_the_primary(event, words.split(b" ")) is tells
