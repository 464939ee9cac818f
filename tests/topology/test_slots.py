"""Slots that move to another primary while commands and broadcasts go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
from redis.crc import key_slot

from bridge.connection import Redis
from bridge.errors import NotTaken
from bridge.link import Endpoint, Link
from bridge.telemetry import PlacementChanged
from bridge.topology import Cluster, slot_of
from tests.figures import Figures
from tests.recorder import Recorder
from tests.servers import DEFAULT_ENGINE, Server
from tests.topologies import ManyServers, Member
from tests.topology.party import SHARDS, Party, longest_wait, write_gap
from tests.waiting import answered, until


def _owner(redis: Redis, key: str) -> Endpoint | None:
    return redis.placement.owner(key)


async def another_primary(cluster: ManyServers, than: Server) -> Server:
    return next(server for server in await cluster.primaries() if server is not than)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("atomic", [False, True], ids=["key-by-key", "at-once"])
async def test_shards_move_with_nothing_lost_and_in_order(
    cluster: ManyServers, party: Party, atomic: bool, full: bool, figures: Figures
) -> None:
    if atomic and not await cluster.can_move_at_once():
        pytest.skip("this server moves slots key by key only")
    keys = party.publisher.keys
    shards = SHARDS if full else 4
    moved = [slot_of(keys.live), *(slot_of(keys.commands(shard)) for shard in range(shards)), slot_of(keys.meta)]
    async with party.broadcasts() as broadcasts, party.load() as load:
        for slot in moved:
            await load.more(10)
            await cluster.move_slot(slot, await another_primary(cluster, await cluster.slot_owner(slot)), atomic=atomic)
        await party.all_rooms_go_on(load)
    await party.drained()
    books, heard = await party.audit(load), await broadcasts.heard()
    figures.report(
        f"cluster {cluster.engine} {len(moved)} slots moved {'at once' if atomic else 'key by key'}",
        accepted=books.accepted,
        write_gap_s=write_gap(load),
        longest_wait_s=longest_wait(books),
        heard=heard.received,
        broadcast_gap_s=heard.gap_s,
        silence_s=heard.silence_s,
    )
    books.clean()
    heard.clean()
    assert not full or max(write_gap(load), heard.silence_s) < 1


@pytest.mark.usefixtures("steady")
async def test_a_subscription_follows_its_slot_though_nobody_calls(
    cluster: ManyServers, party: Party, events: Recorder
) -> None:
    """An idle subscriber hears of the move from the server that it leaves."""
    channel = party.listener.keys.ring(0)
    slot = slot_of(channel)
    heard: list[bytes] = []
    gaps: list[int] = []
    await party.listener.subscriptions.subscribe(channel, heard.append, on_gap=lambda: gaps.append(1))
    source = await cluster.slot_owner(slot)
    await cluster.move_slot(slot, await another_primary(cluster, source))
    await until(lambda: gaps, 30, what="it was confirmed again")
    await answered(partial(party.publisher.redis.call, "SPUBLISH", channel, "after"))
    await until(lambda: b"after" in heard)
    assert heard.count(b"after") == 1


@pytest.mark.usefixtures("steady")
async def test_a_subscriber_that_knows_an_old_place_only_troubles_nobody_else(
    cluster: ManyServers, party: Party, events: Recorder
) -> None:
    """What a server refuses because the slot is elsewhere is asked for there; other subscriptions stay as they are."""
    redis, subscriptions = party.listener.redis, party.listener.subscriptions
    channel = party.listener.keys.ring(1)
    slot = slot_of(channel)
    source = await cluster.slot_owner(slot)
    rings = map(party.listener.keys.ring, range(2, 1000))
    beside = next(name for name in rings if slot_of(name) != slot and _owner(redis, name) == _owner(redis, channel))
    gaps: list[int] = []
    await subscriptions.subscribe(beside, lambda _: None, on_gap=lambda: gaps.append(1))
    old = redis.placement
    await cluster.move_slot(slot, await another_primary(cluster, source))
    await events.wait_for(PlacementChanged)
    await until(lambda: redis.placement != old)
    redis.placement = old
    heard: list[bytes] = []
    await subscriptions.subscribe(channel, heard.append)
    await answered(partial(party.publisher.redis.call, "SPUBLISH", channel, "here"))
    await until(lambda: heard)
    assert not gaps


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("settings", [{"timeout": 5.0}])  # longer than a busy machine stalls
async def test_scripts_that_every_server_forgot_are_sent_again(cluster: ManyServers, party: Party) -> None:
    async with party.broadcasts() as broadcasts, party.load() as load:
        for _ in range(5):
            await load.more(20)
            await cluster.flush_scripts()
    await party.drained()
    assert not load.refusals
    (await party.audit(load)).clean()
    (await broadcasts.heard()).clean()


@pytest.mark.slow
async def test_a_cluster_without_its_majority_takes_nothing_and_goes_on_later(
    cluster: ManyServers, party: Party
) -> None:
    first, *others = cluster.servers
    for server in others:
        cluster.stop(server)
    link = await Link.open(endpoint(first), timeout=1)
    try:
        key = next(f"key{i}" for i in range(1000) if slot_of(f"key{i}") < 100)

        async def is_down() -> bool:
            answers = await asyncio.gather(link.send("GET", key), return_exceptions=True)
            return isinstance(answers[0], NotTaken)

        await until(is_down)
    finally:
        link.close()
    for server in others:
        cluster.cont(server)
    async with party.load() as load:
        await party.all_rooms_go_on(load)
    await party.drained()
    (await party.audit(load)).clean()


@pytest.fixture
async def hermit() -> AsyncIterator[Member]:
    """A cluster node that knows of nobody else, and of a third of the slots."""
    member = Member(DEFAULT_ENGINE, {})
    place = f"{member.id} 127.0.0.1:{member.port}@{member.bus} myself,master - 0 0 1 connected 0-5460"
    (member.directory / "nodes.conf").write_text(f"{place}\nvars currentEpoch 1 lastVoteEpoch 0\n")
    try:
        member._spawn()
        await until(member.answers)
        yield member
    finally:
        member.destroy()


async def test_a_node_that_was_cut_off_is_not_believed(
    start_topology: Callable[..., Awaitable[ManyServers]], hermit: Member
) -> None:
    cluster = await start_topology(ManyServers)
    look = Cluster([endpoint(hermit), endpoint(cluster.members[0])], Endpoint())

    async def seen() -> int:
        return len((await look.look(10)).primaries)

    assert await seen() == 3
    for member in cluster.members:
        member.kill()
    assert await seen() == 1, "better than nothing"


def endpoint(server: Server) -> Endpoint:
    return Endpoint(host="127.0.0.1", port=server.port)


@pytest.mark.parametrize("key", ["x", "chat:{7}:commands", "{}x", "{a}{b}", "a{", "{unended", "한국{방}말"])
def test_slots_are_those_of_the_specification(key: str) -> None:
    assert slot_of(key) == slot_of(key.encode()) == key_slot(key.encode())
