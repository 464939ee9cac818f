"""The publisher's journal: what a server has lost comes back once, in order, and nothing comes back that had ended."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.client import Bridge
from bridge.envelope import Command, netstrings
from bridge.errors import Conflict, Misconfigured, NotRecorded, Overloaded, Rejected, Replaying, ServerFull
from bridge.journal import Row
from bridge.replay import Replay
from bridge.telemetry import (
    Buried,
    Connected,
    DeadLettersDropped,
    JournalSetAside,
    NotReplayed,
    Read,
    Replayed,
    Settled,
    StepFailed,
    Superseded,
)
from tests.conformance.fleet import Desk, Do, Fleet, Gate, do, do_many, note
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import answered, until


class Past:
    """The server's data as it is now; ``return_`` makes it forget everything since, as a lagging replica would have."""

    def __init__(self, server: Server, **config: str) -> None:
        """``config``: other settings that it has then."""
        self._server, self._kept, self._config = server, server.directory / "past", config
        shutil.rmtree(self._kept, ignore_errors=True)
        shutil.copytree(server.directory / "appendonlydir", self._kept)

    async def return_(self) -> None:
        self._server.kill()
        shutil.rmtree(self._server.directory / "appendonlydir")
        shutil.copytree(self._kept, self._server.directory / "appendonlydir")
        await self._server.restart(**self._config)


@contextlib.asynccontextmanager
async def forgotten(fleet: Fleet, journal: Path, other: Bridge) -> AsyncIterator[Bridge]:
    """A publisher that is gone afterwards; its server has forgotten all of it, and ``other`` need not wait for it."""
    async with Bridge.connect(fleet.server.url, shards=1, journal=journal, registry=fleet.desk.registry) as gone:
        past = Past(fleet.server)
        name = replay_of(gone).journal.publisher
        yield gone
    await past.return_()
    await until(lambda: other.redis.connected)
    await other.streams[0].vouch(name, "-", leaving=True)  # as if it had been silent for half a minute


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
async def publisher(own_fleet: Fleet, journal: Path) -> Bridge:
    """A bridge with a journal, on a server that may be killed."""
    return await own_fleet.bridge(journal=journal)


@contextlib.contextmanager
def unwritten(bridge: Bridge) -> Iterator[None]:
    """What is accepted in here is not in the journal, since its disk is full, and its caller is told."""
    database = replay_of(bridge).journal._db
    database.execute("PRAGMA query_only = ON")
    try:
        with pytest.raises(NotRecorded):
            yield
    finally:
        database.execute("PRAGMA query_only = OFF")


def put_back_nothing(bridge: Bridge) -> Callable[[], Awaitable[None]]:
    """Until somebody needs it, or calls what this returns."""

    async def look_at_nothing() -> None: ...

    replay = replay_of(bridge)
    step, replay.step = replay.step, look_at_nothing  # type: ignore[method-assign]
    return step


def replay_of(bridge: Bridge) -> Replay:
    assert bridge.replay is not None
    return bridge.replay


async def replayed(events: Recorder, publisher: Bridge) -> None:
    """Until its rows of shard 0 were looked up on the server as it is now."""
    incarnation = await _incarnation(publisher)
    await events.wait_for(Replayed, incarnation=incarnation, timeout=30)


async def _incarnation(bridge: Bridge) -> str:
    await until(lambda: bridge.redis.connected)
    info = (await answered(partial(bridge.redis.call, "INFO", "replication"))).decode()
    return next(line.partition(":")[2] for line in info.split() if line.startswith("master_replid:"))


async def state(bridge: Bridge, id: str) -> str | None:
    outcome = await answered(partial(bridge.outcome, id))
    return None if outcome is None else outcome.state


async def numbers(fleet: Fleet, count: int) -> list[int]:
    """What took effect, once there are so many."""

    async def enough() -> bool:
        return len(await fleet.log()) >= count

    await until(enough, what="all take effect")
    return await fleet.log()


async def test_what_a_server_lost_comes_back_once_and_in_order(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    await own_fleet.node()
    await do_many(publisher, range(5))
    await numbers(own_fleet, 5)
    past = Past(own_fleet.server)
    receipts = await do_many(publisher, range(5, 40))
    for receipt in receipts:
        await events.wait_for(Settled, id=receipt.id)
    await past.return_()
    await replayed(events, publisher)
    assert await numbers(own_fleet, 40) == list(range(40))
    for receipt in receipts:
        assert await state(publisher, receipt.id) == "done"
    [told] = events.all(Replayed)
    assert (told.rows, told.put_back) == (40, 35)


async def test_what_was_lost_comes_back_to_a_full_server(own_fleet: Fleet, publisher: Bridge, events: Recorder) -> None:
    past = Past(own_fleet.server, maxmemory="1")
    receipts = await do_many(publisher, range(3))
    await past.return_()
    await replayed(events, publisher)
    for receipt in receipts:
        assert await state(publisher, receipt.id) == "accepted"
    with pytest.raises(ServerFull):
        await do(publisher, 3)
    await own_fleet.raw.config_set("maxmemory", 0)
    await own_fleet.node()
    assert await numbers(own_fleet, 3) == [0, 1, 2]


async def test_a_new_command_waits_until_the_publishers_own_are_back(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    await do_many(publisher, range(10))
    await past.return_()
    await until(lambda: publisher.redis.connected)
    await do(publisher, 10)
    await own_fleet.node()
    assert await numbers(own_fleet, 11) == list(range(11))


async def test_a_repeated_key_finds_the_command_that_came_back(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    first = await do(publisher, idempotency_key="k", expires_in=60)
    await past.return_()
    await replayed(events, publisher)
    again = await do(publisher, idempotency_key="k", expires_in=60)
    assert (again.id, again.duplicate) == (first.id, True)
    outcome = await publisher.outcome(first.id)
    assert outcome is not None
    assert outcome.expires_at == int(first.id.split("-")[1]) + 60_000
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [1]


async def test_a_command_of_which_nobody_was_told_comes_back_in_its_own_place(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    """Its caller repeats the key after a later command, by which time the journal has that one."""
    past = Past(own_fleet.server)
    with unwritten(publisher):
        await do(publisher, 1, idempotency_key="k")
    await do(publisher, 2)
    assert (await do(publisher, 1, idempotency_key="k")).duplicate
    await do(publisher, 3)
    await past.return_()
    await replayed(events, publisher)
    await own_fleet.node()
    assert await numbers(own_fleet, 3) == [1, 2, 3]


async def test_a_scheduled_command_comes_back_for_its_time(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    due = await publisher.inspector.now() + 4
    receipt = await do(publisher, deliver_at=due)
    await past.return_()
    await replayed(events, publisher)
    outcome = await publisher.outcome(receipt.id)
    assert outcome is not None
    assert (outcome.state, outcome.deliver_at) == ("scheduled", int(due * 1000))
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [1]


async def test_what_falls_due_meanwhile_waits_for_what_comes_back(own_fleet: Fleet, publisher: Bridge) -> None:
    await own_fleet.node()
    due = await publisher.inspector.now() + 2
    await do(publisher, 2, deliver_at=due)
    past = Past(own_fleet.server)
    await do(publisher, 1)
    await numbers(own_fleet, 1)
    put_back = put_back_nothing(publisher)
    await past.return_()

    async def is_past_due() -> bool:
        return await answered(publisher.inspector.now) > due + 0.3

    await until(is_past_due)
    assert await own_fleet.log() == []
    await put_back()
    assert await numbers(own_fleet, 2) == [1, 2]


async def test_a_cancelled_command_does_not_come_back(own_fleet: Fleet, publisher: Bridge, events: Recorder) -> None:
    past = Past(own_fleet.server)
    receipts = await do_many(publisher, range(3))
    await publisher.cancel(receipts[1].id, by="operator")
    await past.return_()
    await replayed(events, publisher)
    assert await state(publisher, receipts[1].id) == "cancelled"
    await own_fleet.node()
    assert await numbers(own_fleet, 2) == [0, 2]


async def test_a_command_that_is_about_to_come_back_can_be_cancelled(own_fleet: Fleet, publisher: Bridge) -> None:
    put_back_nothing(publisher)
    past = Past(own_fleet.server)
    receipts = await do_many(publisher, range(2))
    await past.return_()
    await until(lambda: publisher.redis.connected)
    await publisher.cancel(receipts[0].id, by="operator")
    assert await state(publisher, receipts[0].id) == "cancelled"
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [1]


async def test_a_cancel_is_done_again_where_its_command_survived(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    receipts = await do_many(publisher, range(2))
    past = Past(own_fleet.server)
    await publisher.cancel(receipts[0].id, by="operator")
    await past.return_()
    await replayed(events, publisher)
    assert await state(publisher, receipts[0].id) == "cancelled"
    assert await state(publisher, receipts[1].id) == "accepted"
    await own_fleet.node()
    await numbers(own_fleet, 1)


class Once:
    """A handler that refuses each command's first try for good."""

    def __init__(self) -> None:
        self.open = False

    async def __call__(self, command: Command[Do]) -> Any:
        if not self.open:
            raise ValueError("not yet")
        return await note(command)


@pytest.fixture
async def dead_id(own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder) -> str:
    """A command that is a dead letter, as a node that has left again found; handlers work from now on."""
    desk.handle = once = Once()
    await own_fleet.node("node-first", max_attempts=1)
    receipt = await do(publisher, 7)
    await publisher.outcome(receipt.id, wait=5)
    await own_fleet.leave("node-first")
    once.open = True
    return receipt.id


async def test_a_requeued_command_comes_back_once(
    own_fleet: Fleet, publisher: Bridge, dead_id: str, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    [(_, new_id)] = (await publisher.dead.requeue([dead_id], by="operator", reason="again")).done
    await past.return_()
    await replayed(events, publisher)
    result = await publisher.dead.requeue([dead_id], by="operator", reason="again")
    assert result.skipped == [(dead_id, "already_requeued")]
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [7]
    assert await state(publisher, str(new_id)) == "done"


async def test_a_requeued_command_takes_the_place_of_the_first_where_that_one_waits_again(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    desk.handle = once = Once()
    receipt = await do(publisher, 7)
    past = Past(own_fleet.server)
    await own_fleet.node("node-first", max_attempts=1)
    await publisher.outcome(receipt.id, wait=5)
    [(_, new_id)] = (await publisher.dead.requeue([receipt.id], by="operator", reason="again")).done
    await own_fleet.leave("node-first")
    once.open = True
    await past.return_()
    await replayed(events, publisher)
    before = await publisher.outcome(receipt.id)
    assert before is not None
    assert (before.state, before.requeued_as) == ("dead", new_id)
    assert not await own_fleet.raw.exists("chat:{0}:requeued")  # nothing would ever take it out, as it has no letter
    await own_fleet.node()
    await events.wait_for(Settled, id=new_id, state="done")
    assert await own_fleet.log() == [7]


@pytest.mark.parametrize("when", ["its death as well", "the requeue only"])
async def test_a_cancelled_requeue_brings_its_first_command_not_back(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder, when: str
) -> None:
    """Whatever the server has lost of it."""
    desk.handle = once = Once()
    receipt = await do(publisher, 7)
    past = Past(own_fleet.server)
    await own_fleet.node("node-first", max_attempts=1)
    await publisher.outcome(receipt.id, wait=5)
    await own_fleet.leave("node-first")
    once.open = True
    if when == "the requeue only":
        past = Past(own_fleet.server)
    [(_, new_id)] = (await publisher.dead.requeue([receipt.id], by="operator", reason="again")).done
    await publisher.cancel(str(new_id), by="operator")
    await past.return_()
    await replayed(events, publisher)
    before = await publisher.outcome(receipt.id)
    assert before is not None
    assert (before.state, before.requeued_as) == ("dead", new_id)
    assert await state(publisher, str(new_id)) == "cancelled"
    await do(publisher, 8)
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [8]


async def test_a_requeued_command_is_not_put_back_by_whoever_had_sent_it(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder, tmp_path: Path
) -> None:
    past = Past(own_fleet.server)
    desk.handle = once = Once()
    await own_fleet.node("node-first", max_attempts=1)
    async with Bridge.connect(own_fleet.server.url, shards=1, journal=tmp_path / "its", registry=desk.registry) as sent:
        receipt = await do(sent, 7)
        await sent.outcome(receipt.id, wait=5)
    [(_, new_id)] = (await publisher.dead.requeue([receipt.id], by="operator", reason="again")).done
    await own_fleet.leave("node-first")
    once.open = True
    await past.return_()
    await replayed(events, publisher)
    back = await own_fleet.bridge(journal=tmp_path / "its")
    assert replay_of(back).journal.count == 1
    assert await state(back, receipt.id) == "dead"
    await do(publisher, 8)
    await own_fleet.node()
    assert await numbers(own_fleet, 2) == [7, 8]
    assert await state(back, str(new_id)) == "done"


async def requeued_after_it_had_begun(
    fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder, first: Once
) -> tuple[str, str, Callable[[], Awaitable[None]]]:
    """A command that the server knows as begun, its repetition, which it lost, and what puts that one back."""
    desk.handle = gate = Gate(first)
    await fleet.node("node-first", max_attempts=1)
    receipt = await do(publisher, 7)
    await until(lambda: gate.entered)
    past = Past(fleet.server)
    gate.open()
    await publisher.outcome(receipt.id, wait=5)
    [(_, new_id)] = (await publisher.dead.requeue([receipt.id], by="operator", reason="again")).done
    await fleet.leave("node-first")
    put_back = put_back_nothing(publisher)
    await past.return_()
    await until(lambda: publisher.redis.connected)
    return receipt.id, str(new_id), put_back


async def test_a_requeue_does_nothing_where_a_node_had_begun_its_command_and_does_it_after_all(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    once = Once()
    id, new_id, put_back = await requeued_after_it_had_begun(own_fleet, publisher, desk, events, once)
    await put_back()
    once.open = True
    await own_fleet.node()
    await events.wait_for(Settled, id=id, state="done")
    await events.wait_for(Settled, id=new_id, state="rejected")
    assert await own_fleet.log() == [7]
    assert not await own_fleet.raw.exists("chat:{0}:requeued")


async def test_a_requeue_is_done_in_its_place_where_a_node_had_begun_its_command_and_it_dies_again(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    id, new_id, put_back = await requeued_after_it_had_begun(own_fleet, publisher, desk, events, Once())
    await put_back()
    await do(publisher, 8)

    async def fail_again(command: Command[Do]) -> Any:
        if command.id == id:
            raise ValueError("again")
        return await note(command)

    desk.handle = fail_again
    await own_fleet.node("node-second", max_attempts=1)
    await events.wait_for_many(2, Buried, id=id)
    assert await numbers(own_fleet, 2) == [7, 8]
    assert await state(publisher, new_id) == "done"
    result = await publisher.dead.requeue([id], by="operator", reason="again")
    assert result.skipped == [(id, "already_requeued")]


@pytest.mark.parametrize("then", ["done", "dead"])
async def test_a_requeue_of_a_requeue_stands_behind_the_first_command_too(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder, then: str
) -> None:
    desk.handle = gate = Gate(Once())
    await own_fleet.node("node-first", max_attempts=1)
    first = (await do(publisher, 7)).id
    await until(lambda: gate.entered)
    past, ids = Past(own_fleet.server), [first]
    gate.open()
    for _ in range(2):
        await publisher.outcome(ids[-1], wait=5)
        [(_, new_id)] = (await publisher.dead.requeue([ids[-1]], by="operator", reason="again")).done
        ids.append(str(new_id))
    await own_fleet.leave("node-first")
    put_back = put_back_nothing(publisher)
    await past.return_()
    await until(lambda: publisher.redis.connected)
    await put_back()

    async def fail_again(command: Command[Do]) -> Any:
        if command.id == first and then == "dead":
            raise ValueError("again")
        return await note(command)

    desk.handle = fail_again
    await own_fleet.node("node-second", max_attempts=1)
    await events.wait_for(Settled, id=ids[2], state="rejected" if then == "done" else "done")
    assert await own_fleet.log() == [7]
    assert await state(publisher, first) == then
    result = await publisher.dead.requeue([first], by="operator", reason="again")
    assert result.skipped == [(first, "not_found" if then == "done" else "already_requeued")]


async def test_a_requeue_is_rejected_where_its_command_was_done_meanwhile(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    """And after a later loss as well."""
    once = Once()
    id, new_id, put_back = await requeued_after_it_had_begun(own_fleet, publisher, desk, events, once)
    once.open = True
    await own_fleet.node()
    await events.wait_for(Settled, id=id, state="done")
    for _ in range(2):
        past = Past(own_fleet.server)
        events.clear()
        await put_back()
        await events.wait_for(Settled, id=new_id, state="rejected")
        await past.return_()
        await until(lambda: publisher.redis.connected)
    assert await own_fleet.log() == [7]


async def test_a_requeue_is_done_where_its_command_had_died_again_and_its_letter_was_discarded(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    id, new_id, put_back = await requeued_after_it_had_begun(own_fleet, publisher, desk, events, Once())
    await own_fleet.node("node-second", max_attempts=1)
    await events.wait_for_many(2, Buried, id=id)
    other = await own_fleet.bridge()
    assert (await other.dead.discard([id])).done
    desk.handle = note
    await put_back()
    await events.wait_for(Settled, id=new_id, state="done")
    assert await own_fleet.log() == [7]
    assert not await own_fleet.raw.exists("chat:{0}:requeued")


async def test_each_of_many_requeues_finds_the_letter_of_its_command_that_died_again(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    """However many died after it."""

    async def fail(command: Command[Do]) -> Any:
        raise ValueError("not yet")

    every = range(120)
    desk.handle = fail
    receipts = await do_many(publisher, every)
    past = Past(own_fleet.server)
    await own_fleet.node("node-first", max_attempts=1)
    await events.wait_for_many(len(every), Buried)
    result = await publisher.dead.requeue([receipt.id for receipt in receipts], by="operator", reason="mended")
    await own_fleet.leave("node-first")
    events.clear()
    put_back = put_back_nothing(publisher)
    await past.return_()
    await until(lambda: publisher.redis.connected)
    await own_fleet.node("node-second", max_attempts=1)
    await events.wait_for_many(len(every), Buried)
    desk.handle = note
    await put_back()
    await events.wait_for_many(len(every), Settled, state="done")
    assert await own_fleet.log() == list(every)
    assert [await state(publisher, str(new_id)) for _, new_id in result.done] == ["done"] * len(every)
    again = await publisher.dead.requeue([receipt.id for receipt in receipts], by="operator", reason="mended")
    assert [code for _, code in again.skipped] == ["already_requeued"] * len(every)


async def test_a_command_that_was_refused_after_all_does_not_count_as_sent_again(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    id, new_id, put_back = await requeued_after_it_had_begun(own_fleet, publisher, desk, events, Once())
    await put_back()

    async def refuse(command: Command[Do]) -> Any:
        if command.id == id:
            raise Rejected("no")
        return await note(command)

    desk.handle = refuse
    await own_fleet.node("node-second")
    await events.wait_for(Settled, id=id, state="rejected")
    await events.wait_for(Settled, id=new_id, state="done")
    assert not await own_fleet.raw.exists("chat:{0}:requeued")


async def test_a_command_does_not_count_as_sent_again_once_its_repetition_was_cancelled(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    id, new_id, put_back = await requeued_after_it_had_begun(own_fleet, publisher, desk, events, Once())
    await put_back()
    assert await own_fleet.raw.exists("chat:{0}:requeued")
    await publisher.cancel(new_id, by="operator")
    assert not await own_fleet.raw.exists("chat:{0}:requeued")
    desk.handle = note
    await own_fleet.node()
    await events.wait_for(Settled, id=id, state="done")


async def test_a_discarded_letter_stays_away(
    own_fleet: Fleet, publisher: Bridge, dead_id: str, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    await publisher.dead.discard([dead_id])
    await past.return_()
    await replayed(events, publisher)
    assert await publisher.dead.get(dead_id) is None
    assert await state(publisher, dead_id) == "dead"


async def test_a_discarded_command_is_not_run_where_all_of_it_was_lost(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    desk.handle = once = Once()
    await own_fleet.node("node-first", max_attempts=1)
    receipt = await do(publisher, 7)
    await publisher.outcome(receipt.id, wait=5)
    await publisher.dead.discard([receipt.id])
    await own_fleet.leave("node-first")
    once.open = True
    await past.return_()
    await replayed(events, publisher)
    await own_fleet.node()
    await do(publisher, 8)
    assert await numbers(own_fleet, 1) == [8]
    assert await state(publisher, receipt.id) == "dead"


async def test_a_late_replay_does_not_undo_what_was_accepted_since(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    other = await own_fleet.bridge()
    async with forgotten(own_fleet, journal, other) as gone:
        lost = [await do(gone, 1), await do(gone, 2, "user:u2")]
    await do(other, 3)
    events.clear()
    back = await own_fleet.bridge(journal=journal)
    assert (await events.wait_for(Superseded)).id == lost[0].id
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [3]
    assert await state(back, lost[0].id) == "dead"
    assert (await do(back, 1, idempotency_key=lost[0].idempotency_key)).duplicate
    letter = await back.dead.get(lost[0].id)
    assert letter is not None
    assert (letter.cause_code, letter.payload) == ("superseded", {"n": 1})
    outcome = await back.outcome(lost[1].id, wait=5)
    assert outcome is not None
    assert outcome.state == "done"
    [(_, new_id)] = (await back.dead.requeue([lost[0].id], by="operator", reason="still wanted")).done
    assert await numbers(own_fleet, 2) == [3, 1]
    assert await state(back, str(new_id)) == "done"


async def test_a_late_replay_does_not_undo_what_was_scheduled_since_and_fell_due(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    other = await own_fleet.bridge()
    async with forgotten(own_fleet, journal, other) as gone:
        lost = [await do(gone, 1), await do(gone, 2, "user:u2")]
    await own_fleet.node()
    later = await do(other, 3, deliver_at=await other.inspector.now() + 0.1)
    waits = await do(other, 4, "user:u2", deliver_at=await other.inspector.now() + 600)
    await events.wait_for(Settled, id=later.id)
    back = await own_fleet.bridge(journal=journal)
    assert [event.id for event in events.all(Superseded)] == [lost[0].id]
    await back.outcome(lost[1].id, wait=5)
    assert [await own_fleet.log(), await own_fleet.log("user:u2")] == [[3], [2]]
    await other.cancel(waits.id, by="operator")


async def test_a_late_replay_undoes_nothing_where_the_lost_servers_clock_was_ahead(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    other = await own_fleet.bridge()
    async with forgotten(own_fleet, journal, other) as gone:
        lost = await do(gone, 1)
    shard, ms, sequence = lost.id.split("-")
    ahead = f"{shard}-{int(ms) + 60_000}-{sequence}"
    with contextlib.closing(sqlite3.connect(next(journal.glob("*.sqlite")))) as database:
        [(fields,)] = database.execute("SELECT fields FROM accepted")
        database.execute(
            "UPDATE accepted SET id = ?, fields = ?", (ahead, fields.replace(lost.id.encode(), ahead.encode()))
        )
        database.commit()
    await do(other, 3)
    await own_fleet.bridge(journal=journal)
    assert [event.id for event in events.all(Superseded)] == [ahead]
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [3]


async def test_a_row_that_cannot_be_put_back_is_told_and_holds_no_other_up(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    receipts = await do_many(publisher, range(3))
    stranger = Row(0, "before", time.time(), "unheard-of", "0-1-1", fields=netstrings([b"v", b"1"]))
    await replay_of(publisher).journal.add(stranger)
    await replay_of(publisher).journal.add(stranger._replace(operation="append", id="0-1-2", fields=b"no netstring"))
    receipts += await do_many(publisher, range(3, 6))
    await past.return_()
    await replayed(events, publisher)
    assert {event.id for event in events.all(NotReplayed)} == {"0-1-1", "0-1-2"}
    await do(publisher, 6)
    await own_fleet.node()
    assert await numbers(own_fleet, 7) == list(range(7))


async def test_a_superseded_command_that_cannot_be_read_is_a_dead_letter_again(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    other = await own_fleet.bridge()
    await own_fleet.node("node-first")
    entry = await own_fleet.put("v", "1", "type", "desk.do", "subject", "user:u1")  # without a payload
    await events.wait_for(Buried, id=f"0-{entry}")
    await own_fleet.leave("node-first")
    async with forgotten(own_fleet, journal, other) as gone:
        [(_, new_id)] = (await gone.dead.requeue([f"0-{entry}"], by="operator", reason="again")).done
    await do(other, 3)
    back = await own_fleet.bridge(journal=journal)
    assert (await events.wait_for(Superseded)).id == new_id
    letter = await back.dead.get(str(new_id))
    assert letter is not None
    assert letter.cause_code == "superseded"
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_an_older_letter_that_makes_room_for_a_superseded_one_is_told(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    other = await own_fleet.bridge()
    async with forgotten(own_fleet, journal, other) as gone:
        lost = await do_many(gone, range(11))
    await do(other, 3)
    back = await own_fleet.bridge(journal=journal, dead_length=10)
    assert {event.id for event in await events.wait_for_many(11, Superseded)} == {each.id for each in lost}
    assert [event.dropped for event in events.all(DeadLettersDropped, shard=0)] == [1]
    assert len((await back.dead.page(limit=20)).items) == 10
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_a_publisher_that_is_gone_holds_others_up_for_five_seconds_at_most(
    own_fleet: Fleet, events: Recorder
) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("gone", "*")
    await own_fleet.server.restart()
    await until(lambda: bridge.redis.connected)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Replaying) as caught:
        await do(bridge)
    assert 0 < caught.value.retry_after_s <= 5

    async def accepted() -> bool:
        try:
            await do(bridge, idempotency_key="k")
        except Replaying:
            return False
        return True

    await until(accepted, 20)
    assert caught.value.retry_after_s - 1 < loop.time() - began < 15


async def test_two_publishers_wait_for_each_other(
    own_fleet: Fleet, publisher: Bridge, journal: Path, events: Recorder
) -> None:
    second = await own_fleet.bridge(journal=journal)
    assert replay_of(second).journal.path != replay_of(publisher).journal.path
    past = Past(own_fleet.server)
    await do(publisher, 1)
    await do(second, 1, "user:u2")
    await past.return_()

    async def accepted(bridge: Bridge, subject: str) -> bool:
        try:
            await do(bridge, 2, subject, idempotency_key="k")
        except Replaying:
            return False
        return True

    await until(lambda: publisher.redis.connected and second.redis.connected)
    # Each on the other's subject: nothing new may go before what the other has to put back.
    await until(lambda: accepted(publisher, "user:u2"))
    await until(lambda: accepted(second, "user:u1"))
    await own_fleet.node()
    assert await numbers(own_fleet, 2) == [1, 2]

    async def both() -> bool:
        return await own_fleet.log("user:u2") == [1, 2]

    await until(both)


async def test_an_ordinary_restart_holds_nobody_up_for_long_and_repeats_nothing(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    await own_fleet.node()
    await do_many(publisher, range(20))
    await numbers(own_fleet, 20)
    await own_fleet.server.restart()
    await replayed(events, publisher)
    await do(publisher, 20)
    assert await numbers(own_fleet, 21) == list(range(21))
    assert events.all(Replayed)[-1].put_back == 0


async def test_what_a_flushed_server_had_is_not_put_back(own_fleet: Fleet, publisher: Bridge, events: Recorder) -> None:
    await do(publisher, 1)
    await own_fleet.raw.flushall()
    await replay_of(publisher).step()
    await do(publisher, 2)
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [2]


async def do_once_nobody_is_waited_for(publisher: Bridge, *arguments: Any, **options: Any) -> None:
    """A last sign of life of the first journal may have been under way; who sent it is waited for a while."""

    async def accepted() -> bool:
        try:
            await do(publisher, *arguments, **options)
        except Replaying:
            return False
        return True

    await until(accepted)


@pytest.mark.parametrize("noticed", [True, False], ids=["and later restarted", "and restarted at once"])
async def test_what_an_emptied_server_had_done_is_not_done_again_when_it_restarts(
    own_fleet: Fleet, publisher: Bridge, events: Recorder, noticed: bool
) -> None:
    await own_fleet.node()
    await do(publisher, 1)
    await numbers(own_fleet, 1)
    await own_fleet.raw.flushall()
    if noticed:
        await events.wait_for(JournalSetAside)
    await own_fleet.server.restart()
    assert (await events.wait_for(JournalSetAside)).rows == 1
    await until(lambda: publisher.redis.connected)
    await do_once_nobody_is_waited_for(publisher, 2)
    assert len(events.all(JournalSetAside)) == 1
    assert await numbers(own_fleet, 1) == [2]
    assert events.all(Replayed) == []
    assert replay_of(publisher).journal.count == 1


async def test_what_one_installation_accepted_goes_to_no_other(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    first = replay_of(publisher).journal
    await do(publisher, 1)
    await own_fleet.raw.flushall()
    await own_fleet.raw.hset("chat:{meta}", mapping={"shards": 1, "schema": 1, "installation": "another"})
    await own_fleet.server.restart()
    await events.wait_for(JournalSetAside, installation="another")
    await until(lambda: publisher.redis.connected)

    await do_once_nobody_is_waited_for(publisher, 2, "user:u2", idempotency_key="k")
    assert replay_of(publisher).journal.count == 1
    assert await own_fleet.raw.xlen("chat:{0}:commands") == 1
    await own_fleet.raw.hset("chat:{meta}", mapping={"installation": first.installation})
    await own_fleet.server.restart()  # the address leads back to the first one
    await replayed(events, publisher)
    assert replay_of(publisher).journal.path == first.path
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [1]


async def test_a_key_counts_only_while_its_command_is_there(fleet: Fleet, bridge: Bridge) -> None:
    """Keys outlive a stream that somebody deletes."""
    first = await do(bridge, idempotency_key="k")
    await fleet.raw.delete("chat:{0}:commands")
    again = await do(bridge, idempotency_key="k")
    assert not again.duplicate
    assert again.id != first.id
    assert (await do(bridge, idempotency_key="k")).id == again.id
    await fleet.node()
    assert await numbers(fleet, 1) == [1]
    assert (await do(bridge, idempotency_key="k")).duplicate


async def test_an_outcome_lives_as_long_as_its_key(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.node()
    receipt = await do(bridge, idempotency_key="k")
    await bridge.outcome(receipt.id, wait=5)
    for key in ("chat:{0}:idem:tester:user:u1:k", f"chat:{{0}}:outcome:{receipt.id}"):
        await fleet.raw.expire(key, 5)
    assert (await do(bridge, idempotency_key="k")).duplicate
    assert await fleet.raw.ttl("chat:{0}:idem:tester:user:u1:k") > 3590
    assert await fleet.raw.ttl(f"chat:{{0}}:outcome:{receipt.id}") > 3590


async def test_rows_leave_once_their_command_has_ended_and_the_server_stood(
    fleet: Fleet, desk: Desk, journal: Path, events: Recorder
) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.bridge(journal=journal)
    replay = replay_of(bridge)
    replay.window_s = 0.05
    await fleet.node()
    receipt = await do(bridge)
    await until(lambda: gate.entered)
    loop = asyncio.get_running_loop()
    stood = loop.time() + 0.2

    async def tidied() -> bool:
        await replay.step()
        return loop.time() > stood

    await until(tidied)
    assert replay.journal.count == 1  # it is being handled
    gate.open()
    await events.wait_for(Settled, id=receipt.id)

    async def gone() -> bool:
        await replay.step()
        return replay.journal.count == 0

    await until(gone)


async def test_a_scheduled_commands_row_leaves_while_it_waits_for_its_time(fleet: Fleet, journal: Path) -> None:
    bridge = await fleet.bridge(journal=journal)
    replay = replay_of(bridge)
    await do(bridge, deliver_at=await bridge.inspector.now() + 3600)
    replay.window_s = 0.05

    async def gone() -> bool:
        await replay.step()
        return replay.journal.count == 0

    await until(gone)
    await fleet.raw.flushall()


async def test_one_shards_fault_keeps_no_other_from_forgetting(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    bridge = await own_fleet.bridge(journal=journal, shards=2)
    subjects = {bridge.shard_of(f"user:u{n}"): f"user:u{n}" for n in range(100)}
    due = await bridge.inspector.now() + 3600
    for subject in subjects.values():
        await do(bridge, 1, subject, deliver_at=due)
    replay = replay_of(bridge)
    assert await replay.journal.has() == {shard: {await _incarnation(bridge)} for shard in (0, 1)}
    await own_fleet.raw.set("chat:{0}:scheduled", "no sorted set", ex=100)
    replay.window_s = 0.05

    async def gone() -> bool:
        await replay.step()
        return replay.journal.count == 1

    await until(gone)
    assert list(await replay.journal.has()) == [0]
    await until(lambda: any(e.cause.startswith("shard 0: ") for e in events.all(StepFailed, name="replay")))
    await own_fleet.raw.flushall()


async def test_ages_go_by_the_servers_clock(fleet: Fleet, journal: Path) -> None:
    bridge = await fleet.bridge(journal=journal)
    receipt = await do(bridge)
    [row] = await replay_of(bridge).journal.rows(0, "another", None, 10)
    assert 0 <= row.at - int(receipt.id.split("-")[1]) / 1000 < 0.0011
    await fleet.raw.delete("chat:{0}:commands")


async def test_nobody_waits_for_a_publisher_whose_rows_were_taken_over_at_the_start(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    options = {"shards": 1, "registry": own_fleet.desk.registry}
    async with (
        Bridge.connect(own_fleet.server.url, journal=journal, **options),
        Bridge.connect(own_fleet.server.url, journal=journal, **options) as second,
    ):
        await do(second)
        left, name = replay_of(second).journal.path, replay_of(second).journal.publisher
    assert left.exists()
    await own_fleet.bridge(journal=journal)  # it takes the first file, and adopts the second
    assert not left.exists()
    assert name.encode() not in await own_fleet.raw.hgetall("chat:{0}:publishers")
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_a_full_journal_refuses_before_anything_is_accepted(fleet: Fleet, journal: Path) -> None:
    bridge = await fleet.bridge(journal=journal)
    replay_of(bridge).journal.max_rows = 2
    await do_many(bridge, range(2))
    with pytest.raises(Overloaded):
        await do(bridge)
    assert await fleet.raw.xlen("chat:{0}:commands") == 2
    await fleet.raw.delete("chat:{0}:commands")


async def test_a_directory_that_cannot_be_written_is_refused_with_the_remedy(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="BRIDGE_JOURNAL"):
        await fleet.bridge(journal=tmp_path / "file" / "journal")


async def test_the_journal_of_another_installation_is_left_alone(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    async with Bridge.connect(
        own_fleet.server.url, shards=1, journal=journal, registry=own_fleet.desk.registry
    ) as before:
        await do(before)
    await own_fleet.raw.flushall()
    await own_fleet.server.restart()
    after = await own_fleet.bridge(journal=journal)
    assert replay_of(after).journal.count == 0
    assert await own_fleet.raw.xlen("chat:{0}:commands") == 0


async def test_a_publisher_leaves_nothing_behind_that_others_wait_for(
    own_fleet: Fleet, journal: Path, events: Recorder
) -> None:
    bridge = await own_fleet.bridge()
    for rows in (0, 1):
        async with Bridge.connect(
            own_fleet.server.url, shards=1, journal=journal, registry=own_fleet.desk.registry
        ) as left:
            if rows:
                await do(left)
        events.clear()
        await own_fleet.server.restart()
        await events.wait_for(Connected)
        await do(bridge)
    await own_fleet.node()
    await events.wait_for(Read)
    assert await numbers(own_fleet, 3) == [1, 1, 1]


async def test_a_servers_own_absence_is_nobodys_silence(own_fleet: Fleet) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("there", "*")
    await bridge.streams[0].vouch("left", "*", leaving=True)
    for name, value in (await own_fleet.raw.hgetall("chat:{0}:publishers")).items():  # as if that was a minute ago
        ms, incarnation = value.split()
        await own_fleet.raw.hset("chat:{0}:publishers", name, b"%d %s" % (int(ms) - 60_000, incarnation))
    await own_fleet.server.restart()
    await until(lambda: bridge.redis.connected)
    await bridge.streams[0].vouch("third", "-")  # whoever comes first makes the others no later
    await bridge.streams[0].vouch("third", "")
    with pytest.raises(Replaying):
        await do(bridge)
    await bridge.streams[0].vouch("there", "*")
    await do(bridge)  # nobody waits for who left


async def test_a_publisher_that_was_killed_is_forgotten(own_fleet: Fleet) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("killed", "*")
    ago = int((await bridge.inspector.now() - bridge.settings.outcome_seconds - 1) * 1000)
    await own_fleet.raw.hset("chat:{0}:publishers", "killed", f"{ago} {await _incarnation(bridge)}")
    await bridge.streams[0].vouch("left", "*", leaving=True)
    await bridge.streams[0].vouch("there", "*")
    assert set(await own_fleet.raw.hkeys("chat:{0}:publishers")) == {b":seen", b"left", b"there"}


async def test_a_clock_that_was_set_back_holds_nobody_up_for_longer(own_fleet: Fleet) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("gone", "*")
    await own_fleet.server.restart()
    incarnation = await _incarnation(bridge)
    ahead = int((await bridge.inspector.now() + 600) * 1000)
    await own_fleet.raw.hset("chat:{0}:publishers", ":hold", f"{ahead} {incarnation}")
    with pytest.raises(Replaying) as caught:
        await do(bridge)
    assert caught.value.retry_after_s <= 5


async def test_a_cancel_of_which_nobody_was_told_is_kept_by_its_repeat(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    receipts = [await do(publisher, 1), await do(publisher, 2, deliver_at=await publisher.inspector.now() + 600)]
    past = Past(own_fleet.server)
    for receipt in receipts:
        with unwritten(publisher):
            await publisher.cancel(receipt.id, by="operator")
        with pytest.raises(Conflict, match="has ended"):
            await publisher.cancel(receipt.id, by="operator")
    await past.return_()
    await replayed(events, publisher)
    for receipt in receipts:
        assert await state(publisher, receipt.id) == "cancelled"
    assert await own_fleet.raw.ttl(f"chat:{{0}}:outcome:{receipts[1].id}") > 3600 + 500


async def test_a_discard_of_which_nobody_was_told_is_kept_by_its_repeat(
    own_fleet: Fleet, publisher: Bridge, dead_id: str, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    with unwritten(publisher):
        await publisher.dead.discard([dead_id])
    assert (await publisher.dead.discard([dead_id])).skipped == [(dead_id, "not_found")]
    await past.return_()
    await replayed(events, publisher)
    assert await publisher.dead.get(dead_id) is None
    assert await state(publisher, dead_id) == "dead"


async def test_a_requeue_of_which_nobody_was_told_is_kept_by_its_repeat(
    own_fleet: Fleet, publisher: Bridge, dead_id: str, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    with unwritten(publisher):
        await publisher.dead.requeue([dead_id], by="operator", reason="again")
    result = await publisher.dead.requeue([dead_id], by="operator", reason="again")
    assert result.skipped == [(dead_id, "already_requeued")]
    await past.return_()
    await replayed(events, publisher)
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [7]


async def test_a_requeue_tells_of_its_own_command_where_a_server_lost_an_earlier_one_meanwhile(
    own_fleet: Fleet, publisher: Bridge, dead_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = Past(own_fleet.server)
    other = await own_fleet.bridge()
    [(_, lost_id)] = (await other.dead.requeue([dead_id], by="operator", reason="again")).done
    read_before = await publisher.dead._find([dead_id])
    assert read_before[dead_id].requeued_as == lost_id

    async def find(_ids: object) -> Any:
        return read_before

    await past.return_()
    await until(lambda: publisher.redis.connected)
    monkeypatch.setattr(publisher.dead, "_find", find)
    [(_, new_id)] = (await publisher.dead.requeue([dead_id], by="operator", reason="again")).done
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [7]
    assert (await state(publisher, str(new_id)), await state(publisher, str(lost_id))) == ("done", None)


async def test_a_requeue_that_was_superseded_leaves_one_letter_to_requeue(
    own_fleet: Fleet, journal: Path, desk: Desk, events: Recorder
) -> None:
    other = await own_fleet.bridge()
    desk.handle = once = Once()
    await own_fleet.node("node-first", max_attempts=1)
    async with Bridge.connect(own_fleet.server.url, shards=1, journal=journal, registry=desk.registry) as gone:
        name = replay_of(gone).journal.publisher
        receipt = await do(gone, 7)
        await gone.outcome(receipt.id, wait=5)
        await own_fleet.leave("node-first")
        past = Past(own_fleet.server)
        [(_, new_id)] = (await gone.dead.requeue([receipt.id], by="operator", reason="again")).done
    once.open = True
    await past.return_()
    await until(lambda: other.redis.connected)
    await other.streams[0].vouch(name, "-", leaving=True)
    await do(other, 3)
    events.clear()
    back = await own_fleet.bridge(journal=journal)
    assert (await events.wait_for(Superseded)).id == new_id
    result = await back.dead.requeue([receipt.id, str(new_id)], by="operator", reason="both")
    assert [id for id, _ in result.done] == [new_id]
    await own_fleet.node()
    assert await numbers(own_fleet, 2) == [3, 7]


async def test_a_letter_without_a_subject_comes_back_and_holds_up_nobody(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    await own_fleet.put("v", "1", "type", "desk.do", "payload", "{}")
    await own_fleet.node("node-first")
    [letter] = await letters(publisher)
    await own_fleet.leave("node-first")
    past = Past(own_fleet.server)
    [(_, new_id)] = (await publisher.dead.requeue([letter], by="operator", reason="again")).done
    await past.return_()
    await replayed(events, publisher)
    await do(publisher, 1)
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [1]
    assert await state(publisher, str(new_id)) == "dead"


async def letters(bridge: Bridge) -> list[str]:
    """Dead commands, once there are any."""
    found: list[str] = []

    async def any_letters() -> bool:
        found[:] = [letter.id for letter in (await bridge.dead.page(limit=10)).items]
        return bool(found)

    await until(any_letters)
    return found


async def test_a_scheduled_command_that_is_overdue_comes_back_before_later_ones(
    own_fleet: Fleet, publisher: Bridge, events: Recorder
) -> None:
    await own_fleet.node()
    past = Past(own_fleet.server)
    mute = await do(publisher, 1, deliver_at=await publisher.inspector.now() + 0.3)
    await publisher.outcome(mute.id, wait=5)
    later = await do(publisher, 2)
    await publisher.outcome(later.id, wait=5)
    await past.return_()
    await replayed(events, publisher)
    assert await numbers(own_fleet, 2) == [1, 2]


async def test_the_outcome_of_a_cancelled_scheduled_command_outlives_its_time(fleet: Fleet, bridge: Bridge) -> None:
    receipt = await do(bridge, deliver_at=await bridge.inspector.now() + 600, idempotency_key="k")
    await bridge.cancel(receipt.id, by="operator")
    for key in (f"outcome:{receipt.id}", "idem:tester:user:u1:k"):
        assert 3600 + 500 < await fleet.raw.ttl(f"chat:{{0}}:{key}") <= 3600 + 600


async def test_a_discard_after_a_requeue_takes_neither_command_away(
    own_fleet: Fleet, publisher: Bridge, desk: Desk, events: Recorder
) -> None:
    past = Past(own_fleet.server)
    desk.handle = once = Once()
    await own_fleet.node("node-first", max_attempts=1)
    receipt = await do(publisher, 7)
    await publisher.outcome(receipt.id, wait=5)
    await own_fleet.leave("node-first")
    [(_, new_id)] = (await publisher.dead.requeue([receipt.id], by="operator", reason="again")).done
    assert (await publisher.dead.discard([receipt.id])).done
    once.open = True
    await past.return_()
    await replayed(events, publisher)
    assert not events.all(NotReplayed)
    await own_fleet.node()
    assert await numbers(own_fleet, 1) == [7]
    assert await state(publisher, str(new_id)) == "done"
    assert await state(publisher, receipt.id) == "dead"


async def test_a_cancel_is_kept_as_long_as_the_scheduled_command_that_it_ended(
    own_fleet: Fleet, journal: Path, desk: Desk, events: Recorder
) -> None:
    async with Bridge.connect(own_fleet.server.url, shards=1, journal=journal, registry=desk.registry) as away:
        receipt = await do(away, deliver_at=await away.inspector.now() + 600)
        past = Past(own_fleet.server)
        await away.cancel(receipt.id, by="operator")
    with contextlib.closing(sqlite3.connect(next(journal.glob("*.sqlite")))) as database:
        database.execute("UPDATE accepted SET at = at - 3500")  # as if that was an hour ago
        database.commit()
    await past.return_()
    back = await own_fleet.bridge(journal=journal)
    assert not events.all(NotReplayed)
    assert await state(back, receipt.id) == "cancelled"
    assert await own_fleet.raw.ttl(f"chat:{{0}}:outcome:{receipt.id}") > 3600 + 500
