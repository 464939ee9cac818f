"""Schedules that break naive versions of this design, each with the rule that stands against it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from bridge import lines
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.effects import Effects
from bridge.envelope import Command, Envelope
from bridge.errors import Fenced, IdempotencyMismatch, ServerFull
from bridge.shard_stream import Lease, ShardStream
from bridge.shards import ranking
from bridge.telemetry import Buried, LostLease, MembersChanged, Read, Settled, Started, StepFailed
from tests.conformance.fleet import Desk, Do, Fleet, Gate, do, do_many, ended, note, take, vanish
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.waiting import answered, until

COMMANDS, GROUP = "chat:{0}:commands", "chatservers"


async def letters(bridge: Bridge) -> dict[str, str]:
    """Dead letters' ids and causes."""
    return {letter.id: letter.cause_code for letter in (await bridge.dead.page(limit=500)).items}


# Entry ids come back


async def test_a_lease_of_another_life_of_the_server_is_void(own_fleet: Fleet) -> None:
    """A server that restarted may lack its last writes, so whoever held a shard before is fenced, token or not."""
    own_fleet.by_hand = True
    stream = (await own_fleet.bridge(lease_seconds=60)).streams[0]
    lease = await take(stream)
    await own_fleet.server.restart()
    assert await own_fleet.raw.get("chat:{0}:lease") == lease.token.encode()
    with pytest.raises(Fenced):
        await answered(lambda: stream.read(lease, "node-x", 1))
    assert await stream.holder() is None
    with pytest.raises(Fenced):  # the new life is noted now, and the token is still of the old one
        await stream.renew(lease)


@pytest.mark.parametrize("stored", [None, "0" * 40])
async def test_an_incarnation_that_is_another_or_missing_voids_the_lease(
    fleet: Fleet, stream: ShardStream, lease: Lease, stored: str | None
) -> None:
    """The token alone proves nothing: the script compares what is stored with the server it runs on."""
    await (
        fleet.raw.delete("chat:{0}:incarnation") if stored is None else fleet.raw.set("chat:{0}:incarnation", stored)
    )
    with pytest.raises(Fenced):
        await stream.renew(lease)
    assert await stream.holder() is None


async def test_an_append_on_another_life_of_the_server_voids_the_lease(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    """The first write of any kind tells that the server is another one."""
    await fleet.raw.set("chat:{0}:incarnation", "0" * 40)
    await do(bridge)
    assert await stream.holder() is None


async def test_an_id_that_was_lost_does_not_come_back(fleet: Fleet, bridge: Bridge) -> None:
    """A fail-over takes the last entries with it, and the stream's last id too; the next ids are others.

    The same server answers within the same millisecond here, which is as close as it gets.
    """
    seen: set[str] = set()
    for _ in range(20):
        ids = [receipt.id for receipt in await do_many(bridge, range(50))]
        assert seen.isdisjoint(ids)
        seen.update(ids)
        await fleet.raw.delete(COMMANDS)


async def test_nobody_can_guess_the_next_id(fleet: Fleet, bridge: Bridge) -> None:
    """Two servers that mint at the same moment give different ids: a part is a random step from the caller."""
    ahead = ((await fleet.raw.time())[0] + 3600) * 1000  # the clock stands still, seen from the stream
    steps = set()
    for _ in range(20):
        await fleet.raw.delete(COMMANDS)
        await fleet.raw.xadd(COMMANDS, {"x": "y"}, id=f"{ahead}-0")
        steps.add((await do(bridge)).id)
    assert len(steps) == 20


async def test_a_result_of_a_lost_command_does_not_settle_another_of_the_same_id(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """A command was lost with its server, and the next one got its id: the old handler's result is dropped."""
    desk.handle = gate = Gate()
    await fleet.node()
    envelope = Envelope("", "", 0, "desk.do", "user:u1", b'{"n":1}', "tester", 1)
    await fleet.raw.execute_command("XADD", COMMANDS, "5-5", *envelope.fields())
    await until(lambda: gate.entered == [1])
    other = Envelope("", "", 0, "desk.do", "user:u2", b'{"n":2}', "tester", 1)
    async with fleet.raw.pipeline(transaction=True) as transaction:
        transaction.delete(COMMANDS)
        transaction.execute_command("XADD", COMMANDS, "5-5", *other.fields())
        transaction.set("chat:{0}:incarnation", "0" * 40)
        await transaction.execute()
    gate.open()
    await events.wait_for(Settled, subject="user:u2")
    assert await fleet.log("user:u2") == [2]
    assert await fleet.log("user:u1") == []


# A late read strands entries


async def test_a_read_that_arrives_late_strands_nothing(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """A read is stuck in a connection that was given up, and runs after the reconnect: its answer goes to nobody.

    So after an error the node raises its own lease's epoch, which fences what is still on its way.
    """
    there = await fleet.bridge()
    await fleet.node(url=proxy.url, timeout=0.5, lease_seconds=60)
    token = str(await there.streams[0].holder())
    await lose_an_answer(fleet, proxy, there)
    await events.wait_for(LostLease, regained=True)
    with pytest.raises(Fenced):
        await there.streams[0].read(Lease(token, 0), "node-a", 10)
    await events.wait_for_many(2, Settled)


async def lose_an_answer(fleet: Fleet, proxy: Proxy, there: Bridge) -> None:
    """The node's next read, its poll, is done by the server, and the node never hears of it.

    Its lease is so long that nothing else is called first, which would cut the connection.
    """
    await do(there, 0)
    await fleet.events.wait_for(Settled)
    proxy.black_hole(requests=False)
    await do(there, 1)
    await until(lambda: _pending(fleet, 1))
    proxy.drop()
    proxy.heal()


async def test_an_answer_that_is_lost_strands_nothing(proxy: Proxy, fleet: Fleet, events: Recorder) -> None:
    """The server delivered, and nobody heard of it: the node claims what is pending in its own name."""
    there = await fleet.bridge()
    await fleet.node(url=proxy.url, timeout=0.5, lease_seconds=60)
    await lose_an_answer(fleet, proxy, there)
    await do(there, 2)
    await events.wait_for_many(3, Settled)
    assert await fleet.log() == [0, 1, 2]


async def _pending(fleet: Fleet, count: int) -> bool:
    return await fleet.pending() == count


async def test_a_lost_settle_is_repeated_and_takes_effect_once(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """Whether a settle that was not answered ran is unknown: results of what is still pending are settled again."""
    desk.handle = gate = Gate()
    there = await fleet.bridge()
    await fleet.node(url=proxy.url, timeout=0.5)
    receipts = await do_many(there, [1, 2])
    await until(lambda: gate.entered)
    proxy.black_hole(requests=False)
    gate.open()
    await until(fleet.log)
    proxy.drop()
    proxy.heal()
    outcome = await there.outcome(receipts[-1].id, wait=10)
    assert outcome is not None
    assert outcome.state == "done"
    assert await fleet.log() == [1, 2]


# Lua's errors


async def test_effects_that_would_fail_write_nothing_and_neighbours_settle(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    """Redis' scripts roll nothing back: what can be checked is checked before the first write."""
    await fleet.raw.set("chat:{0}:user:u1:text", "x")
    await fleet.raw.hset("chat:{0}:user:u1:map", "f", "x")
    await fleet.raw.set("chat:{0}:user:u1:much", 2**63 - 1)
    wrong: list[Effects] = [
        Effects().incr("first").hset("text", "f", 1),
        Effects().incr("first").hincrby("map", "f", 1),
        Effects().incr("first").incr("text"),
        Effects().incr("first").incr("much"),
        Effects().incr("first").zadd("text", "m", 1),
        Effects().incr("first").xadd("map", {"f": 1}, 10),
    ]
    receipts = await do_many(bridge, range(len(wrong) + 2))
    _, entries, _ = await stream.read(lease, "node-x", 100)
    asked = [Effects().incr("good"), *wrong, Effects().incr("good")]
    answers = await stream.settle(lease, "node-x", [ended(raw, e) for raw, e in zip(entries, asked, strict=True)])
    assert [answer == 1 for answer in answers] == [True, *[False] * len(wrong), True]
    assert not await fleet.raw.exists("chat:{0}:user:u1:first")
    assert await fleet.raw.get("chat:{0}:user:u1:good") == b"2"
    assert await letters(bridge) == {receipt.id: "effects_failed" for receipt in receipts[1:-1]}
    assert await fleet.pending() == await fleet.raw.xlen(COMMANDS) == 0


async def test_an_error_that_shows_while_writing_says_how_far_it_came(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    """What no check foresees is caught per entry; such a letter is not requeued, since some of it happened."""
    first, second = await do_many(bridge, [1, 2])
    _, entries, _ = await stream.read(lease, "node-x", 2)
    own_doing = Effects().set("text", "x").incr("text").incr("never")
    answers = await stream.settle(
        lease, "node-x", [ended(entries[0], own_doing), ended(entries[1], Effects().incr("c"))]
    )
    assert answers[1] == 1
    letter = await bridge.dead.get(first.id)
    assert letter is not None
    assert (letter.cause_code, letter.applied) == ("effects_failed", 1)
    assert "1 of 3 effects were applied" in letter.cause_message
    assert dict(zip(letter.fields[::2], letter.fields[1::2], strict=True))[b"payload"] == b'{"n":1}'
    result = await bridge.dead.requeue([first.id], by="operator", reason="again")
    assert result.skipped == [(first.id, "effects_applied")]
    assert await fleet.raw.get("chat:{0}:user:u1:c") == b"1"
    assert second.id not in await letters(bridge)


async def test_an_error_of_lua_itself_touches_no_neighbour(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    """One such as "too many results to unpack" is not seen by redis.pcall: each entry has a pcall of Lua's own."""
    first, second, _ = await do_many(bridge, [1, 2, 3])
    _, entries, _ = await stream.read(lease, "node-x", 3)
    wide = Effects().incr("before")
    wide.writes.append(_wide_write())
    batch = [ended(entries[0], Effects().incr("c")), ended(entries[1], wide), ended(entries[2], Effects().incr("c"))]
    answers = await stream.settle(lease, "node-x", batch)
    assert [answer == 1 for answer in answers] == [True, False, True]
    assert await letters(bridge) == {second.id: "effects_failed"}
    assert await fleet.raw.get("chat:{0}:user:u1:c") == b"2"
    assert first.id not in await letters(bridge)


def _wide_write() -> Any:
    [write] = Effects().hdel("wide", "f").writes
    return type(write)(write.operation, write.name, (b"f",) * 20_000, write.shared)


async def test_too_many_effects_are_a_dead_letter_before_anything_is_written(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """A command's effects have at most a thousand arguments, counted where they are asked for."""

    async def many(command: Command[Do]) -> Effects:
        effects = Effects()
        for i in range(command.payload.n):
            effects.set(f"key-{i}", "v", seconds=60)
        return effects

    desk.handle = many
    bridge = await fleet.node()
    receipt, good = await do(bridge, 300, "user:u1"), await do(bridge, 100, "user:u2")
    await events.wait_for(Settled, id=good.id)
    assert (await events.wait_for(Buried, id=receipt.id)).code == "effects_failed"
    assert await fleet.raw.keys("chat:{0}:user:u1:*") == []


# Numbers


async def test_large_numbers_keep_every_digit(fleet: Fleet, desk: Desk) -> None:
    """9007199254740993 is the first whole number a double cannot hold, so JSON is never decoded in Lua."""
    number = 9007199254740993

    async def store(command: Command[Do]) -> Effects:
        return Effects().set("n", {"v": number}).hincrby("h", "f", number).publish("t", {"v": number}).result(v=number)

    desk.handle = store
    bridge = await fleet.node()
    receipt = await bridge.publish("desk.do", "user:u1", {"data": number}, by="tester")
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert (outcome.result, outcome.payload) == ({"v": number}, {"data": number})
    assert await fleet.raw.get("chat:{0}:user:u1:n") == b'{"v":%d}' % number
    assert await fleet.raw.hget("chat:{0}:user:u1:h", "f") == b"%d" % number
    [(_, fields)] = await fleet.raw.xrange("chat:{0}:channel:user:u1:log")
    assert b'"data":{"v":%d}' % number in fields[b"p"]


# Full memory


async def fill(fleet: Fleet) -> None:
    """Let the server believe that it has no memory left; it gets some back with ``maxmemory 0``."""
    await fleet.raw.config_set("maxmemory", 1)


async def test_a_full_server_refuses_new_commands_and_nothing_else(
    own_fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """Accepted commands drain, since settling begins with writes that need no memory; new ones are refused."""
    desk.handle = gate = Gate()
    bridge = await own_fleet.node()
    receipts = await do_many(bridge, [1, 2, 3])
    await until(lambda: gate.entered)
    await fill(own_fleet)
    with pytest.raises(ServerFull):
        await do(bridge)
    gate.open()
    await events.wait_for_many(3, Settled)
    assert await own_fleet.log() == [1, 2, 3]
    outcome = await bridge.outcome(receipts[2].id)
    assert outcome is not None
    assert outcome.state == "done"
    assert [*events.all(LostLease), *events.all(StepFailed)] == []
    await own_fleet.raw.config_set("maxmemory", 0)
    await do(bridge, 4)
    await events.wait_for_many(4, Settled)


async def test_a_refused_append_wrote_nothing(own_fleet: Fleet) -> None:
    """The first write of an append is the one that a full server refuses, so no key is known of a lost command."""
    bridge = await own_fleet.bridge()
    await fill(own_fleet)
    keys = await own_fleet.raw.dbsize()
    with pytest.raises(ServerFull):
        await do(bridge, idempotency_key="k")
    assert await own_fleet.raw.dbsize() == keys
    await own_fleet.raw.config_set("maxmemory", 0)
    assert not (await do(bridge, idempotency_key="k")).duplicate


async def test_a_dead_nodes_shards_are_taken_over_on_a_full_server(
    own_fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """Joining, acquiring, healing, claiming, starting and retrying begin with a write that needs no memory."""
    bridge = await own_fleet.bridge()
    stream = bridge.streams[0]
    await do_many(bridge, [1, 2])
    lease = await take(stream)
    await stream.read(lease, "node-x", 10)
    await vanish(stream, lease)

    async def fail_once(command: Command[Do]) -> Any:
        if command.payload.n == 1 and command.attempt < 3:
            raise ValueError("once")
        return await note(command)

    desk.handle = fail_once
    await fill(own_fleet)
    await own_fleet.node("node-y")
    await events.wait_for_many(2, Settled)
    assert await own_fleet.log() == [1, 2]
    await own_fleet.raw.config_set("maxmemory", 0)


async def test_every_holders_call_passes_on_a_full_server(own_fleet: Fleet) -> None:
    """Nobody loses a shard, and no shard its work, because memory ran out."""
    own_fleet.by_hand = True
    bridge = await own_fleet.bridge()
    stream = bridge.streams[0]
    await do_many(bridge, range(4))
    await own_fleet.raw.delete("chat:{0}:epoch", "chat:{0}:incarnation")
    await fill(own_fleet)
    lease = await take(stream)
    _, entries, _ = await stream.read(lease, "node-x", 3)
    await stream.renew(lease)
    await own_fleet.raw.delete("chat:{0}:lease")
    await stream.renew(lease)
    await stream.start(lease, entries[0].id, starts=2)
    assert await stream.retry(lease, entries[0].id, deaths=1) == 1
    assert len((await stream.claim(lease, "node-x")).entries) == 3
    assert await stream.settle(lease, "node-x", [ended(entries[0], Effects().incr("c"), counted=True)]) == [1]
    buried, _ = await stream.bury(
        lease, "node-x", entries[1].id, f"0-{entries[1].id}", code="timed_out", message="", attempts=1, outcome=b"{}"
    )
    assert buried
    await own_fleet.raw.xdel(COMMANDS, entries[2].id)
    assert [entry.id for entry in (await stream.claim(lease, "node-x")).entries if not entry.fields] == [entries[2].id]
    await stream.release(lease, {entries[0].id: 0})
    await own_fleet.raw.config_set("maxmemory", 0)


async def test_a_lost_group_is_made_again_on_a_full_server(own_fleet: Fleet, events: Recorder) -> None:
    """To heal takes no memory that a full server would not give."""
    bridge = await own_fleet.node()
    await do(bridge, 1)
    await events.wait_for(Settled)
    await fill(own_fleet)
    await own_fleet.raw.delete(COMMANDS)
    await events.wait_for(LostLease, regained=True)
    await until(lambda: own_fleet.raw.exists(COMMANDS))
    await own_fleet.raw.config_set("maxmemory", 0)
    await do(bridge, 2)
    await events.wait_for_many(2, Settled)


# Lag


async def test_lag_is_what_is_on_the_stream_and_not_pending(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    """The server's own figure is unknown once something undelivered was cancelled."""
    receipts = await do_many(bridge, range(6))
    await stream.read(lease, "node-x", 2)
    await bridge.cancel(receipts[4].id, by="operator")
    [group] = await fleet.raw.xinfo_groups(COMMANDS)
    [info] = await bridge.shard_infos()
    assert (info.length, info.pending, info.lag) == (5, 2, 3)
    assert group["lag"] is None or group["lag"] == 3


# Deleted entries


async def test_what_somebody_deleted_while_it_was_pending_is_buried_once(
    fleet: Fleet, bridge: Bridge, events: Recorder
) -> None:
    """A claim that drops deleted ids would do so unseen; the new holder buries them, whatever the page."""
    stream = bridge.streams[0]
    receipts = await do_many(bridge, range(250))
    lease = await take(stream)
    _, entries, _ = await stream.read(lease, "node-x", 250)
    gone = [0, 99, 100, 120, 249]
    await fleet.raw.xdel(COMMANDS, *(entries[i].id for i in gone))
    await vanish(stream, lease)
    for owner in ("node-y", "node-z"):  # who claims and dies buries nothing, and nothing is forgotten
        lease = await take(stream, f"{owner}/boot")
        page, kept = "-", 0
        while page:
            claimed = await stream.claim(lease, owner, page)
            kept, page = kept + len(claimed.entries), claimed.next
        assert kept == 250
        await stream.release(lease)
    await fleet.node("node-a")
    await events.wait_for_many(5, Buried)
    for i, receipt in enumerate(receipts):
        outcome = await bridge.outcome(receipt.id, wait=5)
        assert outcome is not None
        assert outcome.state == ("dead" if i in gone else "done")
    assert await letters(bridge) == {receipts[i].id: "undecodable" for i in gone}


# Innocents


async def test_waiting_beside_a_killer_is_no_death(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    """Node after node dies, and what only waited there, claimed each time, is still handled as on its second try."""
    bridge = await fleet.bridge()
    stream = bridge.streams[0]
    await do_many(bridge, range(5))
    lease = await take(stream)
    await stream.read(lease, "node-x", 10)
    await vanish(stream, lease)
    for i in range(10):
        lease = await take(stream, f"node-{i}/boot")
        await stream.claim(lease, f"node-{i}")
        await vanish(stream, lease)
    await fleet.node("node-y")
    await events.wait_for_many(5, Settled, state="done")
    assert await fleet.log() == list(range(5))
    assert await letters(bridge) == {}


async def die_first(stream: ShardStream) -> None:
    """A node reads the shard's command, and is gone."""
    lease = await take(stream)
    await stream.read(lease, "node-0", 10)
    await vanish(stream, lease)


async def die_again(stream: ShardStream, node: str) -> None:
    """A node inherits the shard's command, begins it, and is gone."""
    lease = await take(stream, f"{node}/boot")
    [claimed] = (await stream.claim(lease, node)).entries
    await vanish(stream, lease, claimed.id, presumed=1 if claimed.starts is None else claimed.starts)


@pytest.mark.parametrize(("deaths", "state"), [(2, "done"), (3, "dead")])
async def test_a_command_is_buried_after_exactly_its_limit_of_deaths(
    fleet: Fleet, events: Recorder, deaths: int, state: str
) -> None:
    """A start that never ended is a death; the first needs no record, since who inherits presumes it."""
    bridge = await fleet.bridge(max_deaths=3)
    stream = bridge.streams[0]
    receipt = await do(bridge)
    await die_first(stream)
    for i in range(1, deaths):
        await die_again(stream, f"node-{i}")
    await fleet.node("node-y", max_deaths=3)
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert outcome.state == state
    assert await letters(bridge) == ({receipt.id: "killed_its_node"} if state == "dead" else {})


@pytest.mark.parametrize(("deaths_after", "state"), [(0, "done"), (1, "dead")])
async def test_a_start_that_was_under_way_as_the_server_changed_is_no_death(
    own_fleet: Fleet, deaths_after: int, state: str
) -> None:
    """It may have lost its shard by that. One that does not end on the new server either is counted again."""
    bridge = await own_fleet.bridge(max_deaths=3)
    stream = bridge.streams[0]
    receipt = await do(bridge)
    await die_first(stream)
    for node in ("node-1", "node-2"):
        await die_again(stream, node)
    await own_fleet.server.restart()
    await answered(partial(bridge.redis.call, "PING"))
    for _ in range(deaths_after):
        await die_again(stream, "node-3")
    shown = await bridge.outcome(receipt.id)
    assert shown is not None
    assert shown.attempts == 3
    await own_fleet.node("node-y", max_deaths=3)
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert outcome.state == state


async def test_who_inherits_presumes_that_what_was_read_was_started(fleet: Fleet, events: Recorder) -> None:
    """A first start leaves no record, since that would cost every command a call; so its death is presumed."""
    bridge = await fleet.bridge()
    stream = bridge.streams[0]
    await do(bridge)
    lease = await take(stream)
    await stream.read(lease, "node-x", 10)
    await vanish(stream, lease)
    await fleet.node("node-y")
    assert (await events.wait_for(Started)).attempt == 2
    await events.wait_for(Settled)


async def test_failures_are_no_deaths(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    """The two have limits of their own: a handler may raise more often than a process may die."""

    async def fail(command: Command[Do]) -> None:
        if command.attempt < 5:
            raise ValueError("not yet")

    desk.handle = fail
    bridge = await fleet.node(max_deaths=2, max_attempts=5)
    outcome = await bridge.outcome((await do(bridge)).id, wait=5)
    assert outcome is not None
    assert (outcome.state, outcome.attempts) == ("done", 5)


@pytest.mark.parametrize(("starts", "most"), [(1, 4), (2, 1)])
async def test_suspects_run_alone_from_the_second_death_on(
    fleet: Fleet, desk: Desk, events: Recorder, starts: int, most: int
) -> None:
    """What dies beside a killer must not be blamed for it, so a suspect has the process to itself."""
    inside, seen = 0, 0
    everybody = asyncio.Event()

    async def count(command: Command[Do]) -> None:
        nonlocal inside, seen
        inside += 1
        seen = max(seen, inside)
        if inside == most:
            everybody.set()
        await everybody.wait()
        for _ in range(20):  # turns of the loop, for others to start
            await asyncio.wait([asyncio.ensure_future(_nothing())])
        inside -= 1

    desk.handle = count
    bridge = await fleet.bridge()
    stream = bridge.streams[0]
    for i in range(4):
        await do(bridge, i, f"user:u{i}")
    lease = await take(stream)
    _, entries, _ = await stream.read(lease, "node-x", 10)
    for _ in range(starts - 1):
        await vanish(stream, lease, *(entry.id for entry in entries))
        lease = await take(stream)
    await vanish(stream, lease)
    await fleet.node("node-y", lease_seconds=2)
    await events.wait_for_many(4, Settled)
    assert seen == most


async def _nothing() -> None:
    pass


async def test_others_go_on_after_a_suspect(fleet: Fleet, events: Recorder) -> None:
    """Running alone is for a while: neighbours are handled all the same."""
    bridge = await fleet.bridge()
    stream = bridge.streams[0]
    await do(bridge, 1, "user:suspect")
    lease = await take(stream)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    await vanish(stream, lease, entry.id)
    await asyncio.gather(*(do(bridge, i, f"user:u{i}") for i in range(50)))
    await fleet.node("node-y")
    await events.wait_for_many(51, Settled)


# The next of a subject


async def test_the_next_of_a_subject_reads_what_the_one_before_wrote(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """It starts only after the settle of the one before was answered; otherwise it would read old state."""
    read: list[object] = []

    async def step(command: Command[Do]) -> Effects:
        read.append(await command.read("last"))
        return Effects().set("last", command.payload.n)

    desk.handle = step
    bridge = await fleet.bridge()
    await fleet.node(url=proxy.url)
    await do_many(bridge, range(10))
    await events.wait_for_many(10, Settled)
    assert read == [None, *(str(n) for n in range(9))]


async def test_the_next_of_a_subject_does_not_start_before_the_settle_is_answered(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """A slow answer holds the subject up, and no other subject is concerned."""
    desk.handle = gate = Gate()
    bridge = await fleet.bridge()
    await fleet.node(url=proxy.url, timeout=2, lease_seconds=5)
    await do_many(bridge, [1, 2])
    await until(lambda: gate.entered == [1])
    await events.wait_for(Read, entries=lambda n: n >= 1)
    proxy.black_hole(requests=False)
    gate.open()
    await until(fleet.log)
    assert gate.entered == [1]
    proxy.heal()
    await events.wait_for_many(2, Settled)
    assert gate.entered == [1, 2]


# A stuck subject


async def test_a_stuck_subject_does_not_starve_its_shard(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    """Room for reading is counted by what can run; what waits behind its own subject takes none of it."""
    stuck = Gate()

    async def handle(command: Command[Do]) -> Any:
        return await (stuck if command.subject == "user:stuck" else note)(command)

    desk.handle = handle
    bridge = await fleet.node(max_in_flight=4)
    await do_many(bridge, range(100), "user:stuck")
    receipt = await do(bridge, 1, "user:free")
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert outcome.state == "done"
    stuck.open()
    await events.wait_for_many(101, Settled)
    assert await fleet.log("user:stuck") == list(range(100))


async def test_a_subject_that_backs_off_takes_no_room(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    """What waits for another try does not count as running either."""

    async def handle(command: Command[Do]) -> Any:
        if command.subject.startswith("user:bad") and command.attempt == 1:
            raise ValueError("not yet")
        return await note(command)

    desk.handle = handle
    bridge = await fleet.node(max_in_flight=2, backoff_seconds=1)
    subjects = [*(f"user:bad{i}" for i in range(10)), "user:free"]
    receipt = (await asyncio.gather(*(do(bridge, 1, subject) for subject in subjects)))[-1]
    assert (await events.wait_for(Settled)).id == receipt.id
    await events.wait_for_many(11, Settled)


async def test_what_waits_behind_a_stuck_subject_is_bounded(
    fleet: Fleet, desk: Desk, events: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder keeps about a thousand of one subject in memory, here fifty; the rest stays unread on the stream."""
    assert lines.WAITING_PER_SUBJECT == 1000
    monkeypatch.setattr(lines, "WAITING_PER_SUBJECT", 50)
    desk.handle = gate = Gate()
    bridge = await fleet.node(max_in_flight=20)
    await do_many(bridge, range(200))
    await until(lambda: sum(event.entries for event in events.all(Read)) > 50)
    for _ in range(20):
        await bridge.shard_infos()
    assert sum(event.entries for event in events.all(Read)) <= 50 + 20
    gate.open()
    await events.wait_for_many(200, Settled)
    assert await fleet.log() == list(range(200))


# Healing


@pytest.mark.parametrize("loss", ["group", "stream", "everything"])
async def test_healing_finds_only_what_is_not_settled(fleet: Fleet, events: Recorder, loss: str) -> None:
    """A group that is made again begins at the stream's start, and what has settled is not there any more."""
    bridge = await fleet.node()
    await do_many(bridge, range(20))
    await events.wait_for_many(20, Settled)
    if loss == "group":
        await fleet.raw.xgroup_destroy(COMMANDS, GROUP)
    elif loss == "stream":
        await fleet.raw.delete(COMMANDS)
    else:
        await fleet.raw.flushall()
    await do(bridge, 20)
    await events.wait_for_many(21, Settled)
    assert len(await fleet.log()) == (1 if loss == "everything" else 21)


async def test_what_was_unsettled_survives_the_loss_of_its_group(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    """The pending list went with the group, the entries did not: they are read again, and effects are once."""
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    await do_many(bridge, range(5))
    await until(lambda: gate.entered)
    await fleet.raw.xgroup_destroy(COMMANDS, GROUP)
    await do(bridge, 5)
    gate.open()
    await events.wait_for_many(6, Settled)
    assert await fleet.log() == list(range(6))


async def test_settling_takes_the_entry_off_the_stream(fleet: Fleet, events: Recorder) -> None:
    """Acknowledging alone would leave it for a group that begins at the start."""
    bridge = await fleet.node()
    await do(bridge)
    await events.wait_for(Settled)
    assert await fleet.raw.xlen(COMMANDS) == 0


# Clocks


async def test_a_nodes_clock_that_is_off_concerns_no_command(
    fleet: Fleet, desk: Desk, events: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of commands are the server's: a node five minutes ahead expires nothing fresh."""
    nows: list[float] = []

    async def look(command: Command[Do]) -> None:
        nows.append(command.now)

    desk.handle = look
    bridge = await fleet.node()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300)
    receipt = await do(bridge, expires_in=60)
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert outcome.state == "done"
    assert outcome.expires_at is not None
    assert abs(nows[0] - real()) < 60
    assert abs(outcome.expires_at / 1000 - real() - 60) < 60
    assert all(abs(step.at / 1000 - real()) < 60 for step in outcome.timeline)
    [node] = await bridge.nodes()
    assert node.heartbeat_age_s < 60


async def test_a_nodes_clock_that_is_behind_lets_nothing_live_longer(
    fleet: Fleet, desk: Desk, events: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round: what has expired on the server's clock is not started."""
    bridge = await fleet.node()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 300)
    envelope = Envelope("", "", 0, "desk.do", "user:u1", b"{}", "tester", 1, expires=int(real() * 1000) - 1000)
    id = await fleet.put(*envelope.fields())
    assert (await events.wait_for(Settled, id=f"0-{id}")).state == "expired"
    assert bridge.shards == 1


# Assignment's blind spots


async def test_an_orphan_is_taken_by_the_next_in_line_whatever_the_list_says(fleet: Fleet, events: Recorder) -> None:
    """A node that is on the list, and does not take what it ought to, holds nobody's commands up for long."""
    bridge = await fleet.bridge()
    ghost, node = ranking(0, ["node-a", "node-b"])
    exorcised = asyncio.Event()
    beating = asyncio.create_task(_haunt(fleet, ghost, exorcised))
    await until(lambda: fleet.raw.exists("chat:{nodes}:live"))
    fleet.serve(bridge, node)
    await events.wait_for(MembersChanged, live=tuple(sorted((ghost, node))))
    receipt = await do(bridge)
    outcome = await bridge.outcome(receipt.id, wait=30)
    exorcised.set()
    await beating
    assert outcome is not None
    assert outcome.state == "done"


async def _haunt(fleet: Fleet, name: str, exorcised: asyncio.Event) -> None:
    info = b'boot {"version":"1","url":"","types":["desk.do"],"shards":[],"sessions":0,"rooms":0,"rates":{}}'
    await fleet.raw.hset("chat:{nodes}:info", name, info)

    async def beat() -> bool:
        seconds, micros = await fleet.raw.time()
        await fleet.raw.zadd("chat:{nodes}:live", {name: seconds * 1000 + micros // 1000})
        return exorcised.is_set()

    await until(beat, timeout=60)


async def test_a_lease_that_ran_out_and_that_nobody_took_is_renewed(
    fleet: Fleet, stream: ShardStream, lease: Lease
) -> None:
    """A node that was late for its own renewal goes on where nobody took over."""
    await fleet.raw.delete("chat:{0}:lease")
    await stream.renew(lease)
    assert await stream.holder() == lease.token


# Power cut


async def test_a_lease_is_a_second_and_a_half_unless_told_otherwise(fleet: Fleet, stream: ShardStream) -> None:
    """No packet tells of a power cut; only the lease does, so it is short."""
    bridge = await fleet.bridge(lease_seconds=BridgeSettings.model_fields["lease_seconds"].default)

    async def taken_now() -> bool:
        await take(bridge.streams[0])
        left = int(await fleet.raw.pttl("chat:{0}:lease"))
        assert left <= 1500
        return left > 1300  # else this process was held up

    await until(taken_now)


async def test_a_node_that_falls_silent_is_followed_once_its_lease_ran_out(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """Its connections stay open, and nothing comes from them."""
    holder, follower = ranking(0, ["node-a", "node-b"])
    bridge = await fleet.bridge()
    fleet.serve(await fleet.bridge(), follower)
    await fleet.node(holder, url=proxy.url, timeout=0.5)
    await until(lambda: _held_by(bridge, holder))
    proxy.black_hole()
    receipt = await do(bridge)
    assert (await events.wait_for(Settled, id=receipt.id)).by == follower
    proxy.heal()


async def _held_by(bridge: Bridge, node: str) -> bool:
    [info] = await bridge.shard_infos()
    return info.holder == node


# Idempotency's scope


async def test_an_idempotency_key_belongs_to_caller_and_subject(bridge: Bridge) -> None:
    """Two operators' equal keys do not collide, and one operator's key on another subject is another command."""
    receipts = [
        await bridge.publish("desk.do", subject, {}, by=by, idempotency_key="k")
        for by, subject in (("ann", "user:u1"), ("bob", "user:u1"), ("ann", "user:u2"))
    ]
    assert not any(receipt.duplicate for receipt in receipts)
    assert len({receipt.id for receipt in receipts}) == 3


async def test_an_idempotency_key_holds_a_hash_of_the_body(bridge: Bridge) -> None:
    """The same key with another body is a mistake of the caller's, not a duplicate."""
    await do(bridge, 1, idempotency_key="k")
    with pytest.raises(IdempotencyMismatch):
        await do(bridge, 2, idempotency_key="k")


async def test_a_key_that_was_made_up_is_told(bridge: Bridge) -> None:
    """So that a caller can repeat it when the outcome is unknown."""
    receipt = await do(bridge)
    assert (await do(bridge, idempotency_key=receipt.idempotency_key)).id == receipt.id
