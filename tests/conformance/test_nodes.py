"""Membership and assignment: who lives, and which shards are whose."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from bridge.client import Bridge
from bridge.errors import Misconfigured, NameTaken, NotFound
from bridge.scripts import script
from bridge.shards import wanted
from bridge.telemetry import Acquired, Joined, MembersChanged, Released, Settled
from tests.conformance.fleet import Desk, Fleet, Gate, do
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.waiting import until


async def shares(bridge: Bridge) -> dict[str | None, set[int]]:
    found: dict[str | None, set[int]] = {}
    for info in await bridge.shard_infos():
        found.setdefault(info.holder, set()).add(info.shard)
    return found


async def test_one_node_takes_every_shard(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node(shards=8)
    await events.wait_for_many(8, Acquired)
    assert await shares(bridge) == {"node-a": set(range(8))}


async def test_nodes_share_by_rendezvous_hashing(fleet: Fleet) -> None:
    names = ["node-a", "node-b", "node-c"]
    for name in names:
        bridge = await fleet.bridge(shards=16)
        fleet.serve(bridge, name)
    ought = {name: set(wanted(name, names, 16)) for name in names}

    async def settled() -> bool:
        return await shares(bridge) == ought

    await until(settled, 30)  # what somebody took for another is kept for ten seconds


async def test_who_leaves_hands_its_shards_over_at_once(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node("node-a", shards=8, lease_seconds=60)
    await events.wait_for_many(8, Acquired)
    await fleet.node("node-b", shards=8, lease_seconds=60)
    await events.wait_for_many(8 + len(wanted("node-b", ["node-a", "node-b"], 8)), Acquired)
    events.clear()
    await fleet.leave("node-a")
    await events.wait_for_many(len(wanted("node-a", ["node-a", "node-b"], 8)), Acquired, node="node-b", timeout=20)
    assert await shares(bridge) == {"node-b": set(range(8))}


async def test_who_left_is_off_the_list(fleet: Fleet) -> None:
    bridge = await fleet.node("node-a")
    await fleet.leave("node-a")
    assert await bridge.nodes() == []


async def test_a_node_tells_about_itself(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.bridge(lease_seconds=5)
    serving = asyncio.create_task(bridge.serve("node-a", url="ws://x", stats=lambda: {"sessions": 3, "rooms": 2}))
    await events.wait_for(Acquired)

    async def told() -> bool:
        [node] = await bridge.nodes()
        return node.shards == [0]

    await until(told)
    [node] = await bridge.nodes()
    assert (node.name, node.url, node.state, node.sessions, node.rooms) == ("node-a", "ws://x", "live", 3, 2)
    assert (node.types, node.lag) == (["desk.do"], 0)
    assert node.heartbeat_age_s < 5
    serving.cancel()
    await asyncio.wait((serving,))


async def test_the_name_of_a_live_node_is_taken(fleet: Fleet) -> None:
    await fleet.node("node-a")
    other = await fleet.bridge()
    with pytest.raises(NameTaken, match="node-a"):
        await other.serve("node-a")


async def test_the_name_of_a_dead_node_is_free_once_it_counts_as_dead(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.bridge()
    info = {"version": "1", "url": "", "types": [], "shards": [], "sessions": 0, "rooms": 0, "rates": {}}
    now = int((await fleet.raw.time())[0] * 1000)
    k = bridge.keys
    await bridge.redis.run(
        script("heartbeat"), (k.nodes_spare, k.live, k.info, k.draining),
        ("node-a", "killed", orjson.dumps(info), 500, now),
    )  # fmt: skip
    fleet.serve(bridge, "node-a")
    await events.wait_for(Joined, node="node-a")


async def test_a_node_whose_name_a_successor_has_drains_nobody(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """It hung for longer than its lease, and was started anew meanwhile. When it wakes, that concerns itself only."""
    first = fleet.serve(await fleet.bridge(proxy.url, timeout=0.5), "node-a")
    await events.wait_for(Acquired)
    proxy.black_hole()
    bridge = await fleet.bridge()
    fleet.serve(bridge, "node-a")
    await events.wait_for_many(2, Joined, node="node-a", timeout=20)
    proxy.heal()
    await asyncio.wait((first,))
    with pytest.raises(NameTaken):
        first.result()
    assert not await fleet.raw.hexists("chat:{nodes}:draining", "node-a")
    await do(bridge)
    await events.wait_for(Settled)


async def test_a_node_that_is_stopped_before_it_knows_of_a_successor_drains_nobody(fleet: Fleet) -> None:
    await fleet.node("node-a", lease_seconds=60)
    await until(lambda: fleet.raw.hexists("chat:{nodes}:info", "node-a"))
    await fleet.raw.hset("chat:{nodes}:info", "node-a", "another {}")
    await fleet.leave("node-a")
    assert await fleet.raw.hget("chat:{nodes}:info", "node-a") == b"another {}"
    assert not await fleet.raw.hexists("chat:{nodes}:draining", "node-a")


@pytest.mark.parametrize("name", ["", "-a", "a b", "x" * 64, "a/b", "a\n"])
async def test_a_bad_name_is_refused(bridge: Bridge, name: str) -> None:
    with pytest.raises(Misconfigured):
        await bridge.serve(name)


async def test_nodes_of_the_past_are_forgotten(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.raw.zadd("chat:{nodes}:live", {"node-old": 1})
    await fleet.raw.hset("chat:{nodes}:info", "node-old", "boot {}")
    await fleet.raw.hset("chat:{nodes}:draining", "node-old", "operator")
    await fleet.node("node-a")
    assert [node.name for node in await bridge.nodes()] == ["node-a"]
    assert not await fleet.raw.exists("chat:{nodes}:draining")


async def test_a_drained_node_hands_over_and_comes_back(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node("node-a")
    fleet.serve(await fleet.bridge(), "node-b")
    await until(lambda: events.all(MembersChanged, live=("node-a", "node-b")))
    await until(lambda: _settled(bridge), 30)
    [info] = await bridge.shard_infos()
    holder = str(info.holder)
    events.clear()
    await bridge.drain(holder, True)
    other = (await events.wait_for(Acquired)).node
    assert other != holder
    assert {node.name: node.state for node in await bridge.nodes()}[holder] == "draining"
    await bridge.drain(holder, False)
    await until(lambda: _live(bridge, holder))


async def _settled(bridge: Bridge) -> bool:
    [info] = await bridge.shard_infos()
    ought = [name for name in ("node-a", "node-b") if wanted(name, ["node-a", "node-b"], 1)]
    return info.holder == ought[0]


async def _live(bridge: Bridge, name: str) -> bool:
    return {node.name: node.state for node in await bridge.nodes()}[name] == "live"


async def test_draining_an_unknown_node_is_not_found(bridge: Bridge) -> None:
    with pytest.raises(NotFound):
        await bridge.drain("node-z", True)


async def test_a_process_may_hold_several_bridges_that_serve(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    bridge = await fleet.node("node-a", shards=4)
    for name in ("node-b", "node-c"):
        fleet.serve(await fleet.bridge(shards=4), name)
    receipts = [await do(bridge, i, f"user:u{i}") for i in range(40)]
    await events.wait_for_many(40, Settled, state="done")
    assert len({receipt.id for receipt in receipts}) == 40


async def test_who_gives_no_name_has_one_of_its_own(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    for _ in range(2):
        fleet.serve(await fleet.bridge(), None)
    await events.wait_for_many(2, Joined)
    names = {event.node for event in events.all(Joined)}
    assert len(names) == 2
    assert all(str(os.getpid()) in name for name in names)


async def test_a_shard_whose_holder_drains_slowly_is_not_taken_before_it_is_free(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node("node-a", lease_seconds=1.5)
    await do(bridge)
    await until(lambda: gate.entered)
    fleet.serve(await fleet.bridge(lease_seconds=1.5), "node-b")
    await events.wait_for(MembersChanged, node="node-b")
    await bridge.drain("node-a", True)
    deadline = asyncio.get_running_loop().time() + 2  # longer than a lease
    await until(lambda: asyncio.get_running_loop().time() > deadline)
    assert events.all(Acquired, node="node-b") == []
    gate.open()
    await events.wait_for(Released, node="node-a")
    await events.wait_for(Acquired, node="node-b")
    assert gate.entered == [1]


async def test_figures_of_a_shard_are_those_of_its_stream(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node("node-a")
    await do(bridge, 1)
    await do(bridge, 2)
    await until(lambda: gate.entered)
    [info] = await bridge.shard_infos()
    assert (info.holder, info.length, info.dead) == ("node-a", 2, 0)
    assert info.oldest_age_s is not None
    [entry, *_] = await bridge.pending(0)
    assert (entry.type, entry.subject, entry.node, entry.deliveries) == ("desk.do", "user:u1", "node-a", 1)
    gate.open()
    await events.wait_for_many(2, Settled)
    [info] = await bridge.shard_infos()
    assert (info.length, info.pending, info.lag, info.oldest_age_s) == (0, 0, 0, None)


async def test_pending_of_no_shard_is_not_found(bridge: Bridge) -> None:
    with pytest.raises(NotFound):
        await bridge.pending(1)


async def test_a_clock_that_was_set_back_keeps_nobody_alive(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.bridge()
    ahead = int(await bridge.inspector.now() * 1000) + 600_000
    await fleet.raw.zadd("chat:{nodes}:live", {"node-z": ahead})
    await fleet.raw.hset("chat:{nodes}:info", "node-z", "boot {}")
    await fleet.node("node-a")

    async def is_dead() -> bool:
        return any(node.name == "node-z" and node.state == "dead" for node in await bridge.nodes())

    await until(is_dead)
