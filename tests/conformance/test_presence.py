"""Killed processes are missed by their subscription: at once, and nobody else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import orjson
import pytest

from bridge.client import Bridge
from bridge.errors import Fenced
from bridge.presence import LOOK_S, Presence
from bridge.scripts import script
from bridge.shard_stream import Lease, Occupied, ShardStream
from bridge.shards import wanted
from bridge.telemetry import Acquired, Released, Resubscribed, Settled, Started, StepFailed, Vanished
from tests.conformance.fleet import Fleet, take
from tests.faults import fleet as processes
from tests.faults import ledger
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until

LONG_S = 60.0  # a lease that no test waits for
SHARDS = 8
SOME_LOOKS_S = 8 * LOOK_S  # in which somebody would be missed three times


async def looks_go_by() -> None:
    """As long as it would take, several times over."""
    deadline = asyncio.get_running_loop().time() + SOME_LOOKS_S
    await until(lambda: asyncio.get_running_loop().time() > deadline)


def share(name: str, *nodes: str) -> set[int]:
    return set(wanted(name, sorted(nodes), SHARDS))


async def holders(bridge: Bridge) -> dict[int, str | None]:
    return {info.shard: info.holder for info in await bridge.shard_infos()}


async def all_at_home(bridge: Bridge, *nodes: str) -> dict[int, str | None]:
    """Wait until every shard is held by whom it ought to be."""
    ought = {shard: name for name in nodes for shard in share(name, *nodes)}

    async def at_home() -> bool:
        return await holders(bridge) == ought

    await until(at_home, 30)  # what somebody took for another is kept for ten seconds
    return await holders(bridge)


# processes


@pytest.fixture
async def crew(server: Server, events: Recorder) -> AsyncIterator[Callable[..., Any]]:
    """Start nodes as processes: ``await crew("a", "b", lease_seconds=30)``."""
    fleets: list[processes.Fleet] = []

    async def start(*names: str, **settings: Any) -> processes.Fleet:
        fleet = processes.Fleet(server.url, server.directory, events, shards=SHARDS, **settings)
        fleets.append(fleet)
        await fleet.start(*names)
        return fleet

    yield start
    for fleet in fleets:
        await fleet.destroy()


async def test_the_shards_of_a_killed_process_are_taken_without_waiting_for_its_leases(
    server: Server, events: Recorder, crew: Callable[..., Any]
) -> None:
    nodes = await crew("a", "b", "c", lease_seconds=LONG_S)
    async with Bridge.connect(server.url, shards=SHARDS, registry=ledger.registry) as bridge:
        await all_at_home(bridge, "a", "b", "c")
        await looks_go_by()
        room = next(f"room:r{i}" for i in range(99) if bridge.shard_of(f"room:r{i}") in share("a", "a", "b", "c"))
        held = await bridge.publish("fault.linger", room, {"n": 1, "seconds": 2}, by="test")
        await events.wait_for(Started, id=held.id, by="a")
        nodes.members["a"].kill()
        assert (await events.wait_for(Settled, id=held.id)).by in ("b", "c")
        await all_at_home(bridge, "b", "c")
        assert {event.who for event in events.all(Vanished)} == {"a"}


async def test_a_killed_node_that_was_draining_is_missed_as_well(
    server: Server, events: Recorder, crew: Callable[..., Any]
) -> None:
    nodes = await crew("a", "b", lease_seconds=LONG_S)
    async with Bridge.connect(server.url, shards=SHARDS, registry=ledger.registry) as bridge:
        await all_at_home(bridge, "a", "b")
        await looks_go_by()
        room = next(f"room:r{i}" for i in range(99) if bridge.shard_of(f"room:r{i}") in share("a", "a", "b"))
        held = await bridge.publish("fault.linger", room, {"n": 1, "seconds": 5}, by="test")
        await events.wait_for(Started, id=held.id, by="a")
        await bridge.drain("a", True)
        await events.wait_for_many(
            len(share("a", "a", "b")) - 1, Acquired, node="b", shard=share("a", "a", "b").__contains__
        )
        nodes.members["a"].kill()
        await all_at_home(bridge, "b")
        await events.wait_for(Started, id=held.id, by="b")


async def test_a_paused_process_keeps_its_shards_until_its_leases_run_out(
    server: Server, events: Recorder, crew: Callable[..., Any]
) -> None:
    nodes = await crew("a", "b", lease_seconds=2)
    async with Bridge.connect(server.url, shards=SHARDS, registry=ledger.registry) as bridge:
        await all_at_home(bridge, "a", "b")
        nodes.members["a"].stop()
        await all_at_home(bridge, "b")
        nodes.members["a"].cont()
        await all_at_home(bridge, "a", "b")
    assert not events.all(Vanished)


# nobody is missed who lives


async def two_nodes(fleet: Fleet, url: str | None = None) -> Bridge:
    """node-a on the server itself and node-b at ``url``, each with its shards; the bridge of node-a."""
    bridge = await fleet.bridge(shards=SHARDS, lease_seconds=LONG_S)
    fleet.serve(bridge, "node-a")
    fleet.serve(await fleet.bridge(url, shards=SHARDS, lease_seconds=LONG_S), "node-b")
    await all_at_home(bridge, "node-a", "node-b")
    return bridge


async def test_after_a_restart_of_the_server_the_first_to_be_back_takes_nothing(
    own_fleet: Fleet, own_server: Server, events: Recorder, start_proxy: Callable[..., Any]
) -> None:
    proxy = await start_proxy(own_server)
    bridge = await two_nodes(own_fleet, proxy.url)
    await looks_go_by()
    events.clear()
    proxy.cut()  # node-b is not back for long
    await own_server.restart()
    await events.wait_for(Resubscribed)
    await looks_go_by()
    assert not events.all(Vanished)
    assert not events.all(Acquired, node="node-a")
    proxy.heal()
    await all_at_home(bridge, "node-a", "node-b")


async def test_when_everybody_s_subscriptions_are_cut_no_shard_moves(fleet: Fleet, events: Recorder) -> None:
    bridge = await two_nodes(fleet)
    before = {info.shard: info.epoch for info in await bridge.shard_infos()}
    for _ in range(5):
        events.clear()
        await fleet.raw.client_kill_filter(_type="pubsub")
        await events.wait_for_many(2, Resubscribed)
        await looks_go_by()
        assert not events.all(Vanished)
        assert not events.all(Released)
    assert {info.shard: info.epoch for info in await bridge.shard_infos()} == before


async def test_a_node_that_lives_without_its_subscription_is_not_robbed(fleet: Fleet, events: Recorder) -> None:
    await fleet.raw.execute_command("ACL", "SETUSER", "bee", "on", ">secret", "~*", "&*", "+@all")
    bridge = await two_nodes(fleet, fleet.server.url.replace("unix://", "unix://bee:secret@"))
    await looks_go_by()
    before = {info.shard: info.epoch for info in await bridge.shard_infos()}
    events.clear()
    await fleet.raw.execute_command("ACL", "SETUSER", "bee", "-ssubscribe")
    await fleet.raw.execute_command("CLIENT", "KILL", "USER", "bee", "TYPE", "pubsub")

    async def without() -> bool:
        channel = bridge.keys.node_channel("node-b")
        return not (await fleet.raw.execute_command("PUBSUB", "SHARDNUMSUB", channel))[1]

    await until(without)
    await looks_go_by()
    assert not events.all(Vanished)
    assert {info.shard: info.epoch for info in await bridge.shard_infos()} == before
    await fleet.raw.execute_command("ACL", "SETUSER", "bee", "+ssubscribe")
    await events.wait_for(Resubscribed)
    await fleet.raw.execute_command("ACL", "DELUSER", "bee")


async def test_who_never_saw_a_node_does_not_miss_it(fleet: Fleet, events: Recorder) -> None:
    """A node in the list that nobody saw subscribed: of another version, or older than whoever asks."""
    bridge = await fleet.bridge(lease_seconds=LONG_S)
    k = bridge.keys
    info = {"version": "1", "url": "", "types": [], "shards": [], "sessions": 0, "rooms": 0, "rates": {}}
    await bridge.redis.run(
        script("heartbeat"), (k.nodes_spare, k.live, k.info, k.draining),
        ("node-x", "boot", orjson.dumps(info), int(LONG_S * 1000), 3_600_000),
    )  # fmt: skip
    lease = await take(bridge.streams[0], "node-x/boot")
    fleet.serve(bridge, "node-a")
    await looks_go_by()
    assert not events.all(Vanished)
    assert await bridge.streams[0].holder() == lease.token
    await fleet.raw.delete(k.lease(0))


class Witness:
    """Somebody who looks, step by step."""

    def __init__(self, bridge: Bridge, events: Recorder) -> None:
        self.beats = 0
        self.presence = Presence(
            "node-w",
            redis=bridge.redis,
            keys=bridge.keys,
            subscriptions=bridge.subscriptions,
            beat=self._beat,
            changed=lambda: None,
            telemetry=events.telemetry,
        )
        self.presence.watch(["node-w", "node-x"])

    async def _beat(self) -> None:
        self.beats += 1

    async def looks(self) -> bool:
        """Whether somebody vanished after some looks, as far apart as they ask to be."""
        for _ in range(5):
            due = asyncio.get_running_loop().time() + await self.presence.step()
            await until(partial(_past, due))
        return bool(self.presence.vanished)


def _past(due: float) -> bool:
    return asyncio.get_running_loop().time() >= due


async def test_only_who_is_subscribed_himself_misses_others_and_speaks_up_otherwise(
    fleet: Fleet, events: Recorder
) -> None:
    bridge, other = await fleet.bridge(), await fleet.bridge()
    witness = Witness(bridge, events)
    channels = bridge.keys.node_channel("node-w"), bridge.keys.node_channel("node-x")
    theirs = await other.subscriptions.subscribe(channels[1], lambda _: None)
    await witness.presence.step()
    assert witness.beats == 1
    other.subscriptions.unsubscribe(theirs)
    await bridge.subscriptions.subscribe(channels[0], lambda _: None)
    assert not await witness.looks()  # what it saw before it was subscribed does not count
    theirs = await other.subscriptions.subscribe(channels[1], lambda _: None)
    await witness.presence.step()
    other.subscriptions.unsubscribe(theirs)
    assert await witness.looks()
    assert witness.beats == 1


@pytest.mark.parametrize("cut", ["subscription", "connection"])
async def test_what_was_seen_before_a_cut_does_not_count_after_it(fleet: Fleet, events: Recorder, cut: str) -> None:
    bridge, other = await fleet.bridge(), await fleet.bridge()
    witness = Witness(bridge, events)
    renewed = asyncio.Event()

    def again() -> None:
        witness.presence.begin_anew()
        renewed.set()

    channels = bridge.keys.node_channel("node-w"), bridge.keys.node_channel("node-x")
    await bridge.subscriptions.subscribe(channels[0], lambda _: None, on_gap=again)
    theirs = await other.subscriptions.subscribe(channels[1], lambda _: None)
    await witness.presence.step()
    before = bridge.redis.link_to(bridge.keys.live)
    if cut == "subscription":
        await fleet.raw.client_kill_filter(_type="pubsub")
        await renewed.wait()
    else:
        await fleet.raw.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: bridge.redis.link_to(bridge.keys.live) not in (None, before))
    other.subscriptions.unsubscribe(theirs)
    assert not await witness.looks()


async def test_who_may_not_look_says_so_once(own_fleet: Fleet, events: Recorder) -> None:
    bridge = await own_fleet.bridge()
    witness = Witness(bridge, events)
    await own_fleet.raw.execute_command("ACL", "SETUSER", "default", "-pubsub")
    for _ in range(3):
        await witness.presence.step()
    [told] = events.all(StepFailed, name="presence")
    assert "pubsub" in told.cause.lower()
    await own_fleet.raw.execute_command("ACL", "SETUSER", "default", "+pubsub")
    await witness.presence.step()
    await own_fleet.raw.execute_command("ACL", "SETUSER", "default", "-pubsub")
    await witness.presence.step()
    assert len(events.all(StepFailed, name="presence")) == 2


# taking the lease of one that vanished


async def test_the_lease_of_one_that_vanished_is_taken_and_its_holder_fenced(stream: ShardStream, lease: Lease) -> None:
    taken = await stream.acquire("node-y/boot", instead_of=lease.token)
    assert isinstance(taken, Lease)
    assert taken.epoch > lease.epoch
    with pytest.raises(Fenced):
        await stream.renew(lease)


async def test_a_lease_that_somebody_else_has_taken_since_stays_theirs(stream: ShardStream, lease: Lease) -> None:
    await stream.release(lease)
    other = await take(stream, "node-z/boot")
    answer = await stream.acquire("node-y/boot", instead_of=lease.token)
    assert isinstance(answer, Occupied)
    assert (answer.by, answer.token) == ("node-z", other.token)
    assert 0 < answer.for_s <= 60


async def test_a_lease_that_was_renewed_since_stays_its_holder_s(
    fleet: Fleet, stream: ShardStream, lease: Lease
) -> None:
    await fleet.raw.expire("chat:{0}:lease", 10)  # of a minute: silent for fifty seconds
    await stream.renew(lease)
    assert isinstance(await stream.acquire("node-y/boot", instead_of=lease.token, silent_s=40), Occupied)
    await fleet.raw.expire("chat:{0}:lease", 10)
    assert isinstance(await stream.acquire("node-y/boot", instead_of=lease.token, silent_s=40), Lease)
