"""A node at work: order, retries, time limits, and entries that cannot be handled."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from bridge.effects import Effects
from bridge.envelope import Command
from bridge.errors import Rejected, Retry
from bridge.registry import Registry
from bridge.shards import shard_of
from bridge.telemetry import Buried, Read, Released, Retried, Settled, Started
from tests.conformance.fleet import Desk, Do, Fleet, Gate, do, do_many, note
from tests.recorder import Recorder
from tests.waiting import until

GOOD = {"v": "1", "type": "desk.do", "subject": "user:u1", "payload": '{"n":7}', "by": "stranger", "at": "1"}


def flat(fields: Mapping[str, object]) -> list[object]:
    return [part for pair in fields.items() for part in pair]


async def test_a_handler_sees_the_whole_command(fleet: Fleet, desk: Desk) -> None:
    seen: list[Command[Do]] = []

    async def look(command: Command[Do]) -> None:
        seen.append(command)

    desk.handle = look
    bridge = await fleet.node()
    receipt = await do(bridge, 3, reason="because")
    await bridge.outcome(receipt.id, wait=5)
    [command] = seen
    assert (command.id, command.type, command.subject, command.subject_id) == (receipt.id, "desk.do", "user:u1", "u1")
    assert (command.payload, command.reason, command.issued_by, command.attempt) == (Do(n=3), "because", "tester", 1)
    assert 0 <= command.now - command.issued_at < 5


async def test_the_outcome_tells_the_whole_story(fleet: Fleet) -> None:
    bridge = await fleet.node()
    receipt = await do(bridge, 3, reason="because", idempotency_key="k")
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert [(step.state, step.node) for step in outcome.timeline] == [
        ("accepted", None), ("handling", "node-a"), ("done", "node-a"),
    ]  # fmt: skip
    assert (outcome.result, outcome.payload, outcome.error) == ({"n": 3}, {"n": 3}, None)
    assert (outcome.issued_by, outcome.reason, outcome.idempotency_key) == ("tester", "because", "k")
    assert (outcome.node, outcome.attempts) == ("node-a", 1)


async def test_a_handler_reads_its_subjects_state(fleet: Fleet, desk: Desk) -> None:
    found: dict[str, object] = {}

    async def look(command: Command[Do]) -> None:
        for name in ("text", "map", "sorted", "list", "stream", "nothing"):
            found[name] = await command.read(name)

    desk.handle = look
    prefix = "chat:{0}:user:u1:"
    await fleet.raw.set(prefix + "text", "é")
    await fleet.raw.hset(prefix + "map", "f", "1")
    await fleet.raw.zadd(prefix + "sorted", {"late": 2, "early": 1})
    await fleet.raw.rpush(prefix + "list", "a", "b")
    for n in ("1", "2"):
        await fleet.raw.xadd(prefix + "stream", {"n": n, "name": "é"})
    bridge = await fleet.node()
    await bridge.outcome((await do(bridge)).id, wait=5)
    assert found == {
        "text": "é", "map": {"f": "1"}, "sorted": ["early", "late"], "list": ["a", "b"],
        "stream": [{"n": "1", "name": "é"}, {"n": "2", "name": "é"}], "nothing": None,
    }  # fmt: skip


async def test_commands_of_a_subject_take_effect_in_order(fleet: Fleet) -> None:
    bridge = await fleet.node(max_in_flight=20)
    receipts = [await do_many(bridge, range(100), f"user:u{i}") for i in range(3)]
    await asyncio.gather(*(bridge.outcome(each[-1].id, wait=10) for each in receipts))
    for i in range(3):
        assert await fleet.log(f"user:u{i}") == list(range(100))


async def test_subjects_are_handled_side_by_side(fleet: Fleet, desk: Desk) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    for i in range(5):
        await do(bridge, i, f"user:u{i}")
    await until(lambda: len(gate.entered) == 5)
    gate.open()


async def test_no_more_than_max_in_flight_run_at_once(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node(max_in_flight=3)
    for i in range(10):
        await do(bridge, i, f"user:u{i}")
    await until(lambda: len(gate.entered) == 3)
    gate.open()
    await events.wait_for_many(10, Settled)
    assert gate.most == 3


async def test_a_refusal_ends_a_command_as_rejected(fleet: Fleet, desk: Desk) -> None:
    async def refuse(command: Command[Do]) -> None:
        raise Rejected("no such item")

    desk.handle = refuse
    bridge = await fleet.node()
    outcome = await bridge.outcome((await do(bridge)).id, wait=5)
    assert outcome is not None
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code, outcome.error.message) == ("rejected", "rejected", "no such item")


async def test_a_handler_that_raises_is_retried_and_its_subjects_next_waits(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    order: list[tuple[int, int]] = []

    async def fail_twice(command: Command[Do]) -> Effects:
        order.append((command.payload.n, command.attempt))
        if command.payload.n == 1 and command.attempt < 3:
            raise ValueError("not yet")
        return Effects()

    desk.handle = fail_twice
    bridge = await fleet.node()
    receipts = await do_many(bridge, [1, 2])
    outcome = await bridge.outcome(receipts[0].id, wait=5)
    await bridge.outcome(receipts[1].id, wait=5)
    assert order == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert [event.after_s for event in events.all(Retried)] == [0.01, 0.02]
    assert outcome is not None
    assert (outcome.state, outcome.attempts) == ("done", 3)


async def test_another_subject_does_not_wait_for_a_retry(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    async def fail(command: Command[Do]) -> Effects:
        if command.subject == "user:u1" and command.attempt == 1:
            raise Retry(0.3)
        return Effects()

    desk.handle = fail
    bridge = await fleet.node()
    await do(bridge, subject="user:u1")
    await events.wait_for(Retried)
    await do(bridge, subject="user:u2")
    first = await events.wait_for(Settled)
    assert first.subject == "user:u2"
    await events.wait_for(Settled, subject="user:u1")


async def test_a_handler_says_when_to_try_again(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    async def later(command: Command[Do]) -> None:
        if command.attempt == 1:
            raise Retry(0.07)

    desk.handle = later
    bridge = await fleet.node()
    await do(bridge)
    assert (await events.wait_for(Retried)).after_s == 0.07
    await events.wait_for(Settled, state="done")


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("boom"),
        asyncio.CancelledError(),
        OSError("/\udcff"),
        TimeoutError("its own"),
        Exception("x" * 10_000),
    ],
    ids=["error", "cancelled", "surrogate", "timeout", "long"],
)
async def test_a_handler_that_goes_on_raising_ends_in_the_dead_letters(
    fleet: Fleet, desk: Desk, failure: BaseException
) -> None:
    async def fail(command: Command[Do]) -> None:
        raise failure

    desk.handle = fail
    bridge = await fleet.node(max_attempts=2)
    receipt = await do(bridge)
    outcome = await bridge.outcome(receipt.id, wait=5)
    letter = await bridge.dead.get(receipt.id)
    assert outcome is not None
    assert letter is not None
    assert (outcome.state, outcome.attempts, letter.attempts) == ("dead", 2, 2)
    assert letter.cause_code in ("attempts_used_up", "timed_out")


async def test_a_handler_that_returns_anything_else_has_failed(fleet: Fleet, desk: Desk) -> None:
    async def nonsense(command: Command[Do]) -> object:
        return {"result": 1}

    desk.handle = nonsense
    bridge = await fleet.node(max_attempts=1)
    receipt = await do(bridge)
    await bridge.outcome(receipt.id, wait=5)
    letter = await bridge.dead.get(receipt.id)
    assert letter is not None
    assert "returned dict" in letter.cause_message


async def test_a_handler_that_hangs_is_cut_at_its_time_limit(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    desk.handle = Gate()
    bridge = await fleet.node(handler_seconds=0.05, max_attempts=2)
    receipt = await do(bridge)
    buried = await events.wait_for(Buried, id=receipt.id)
    assert buried.code == "timed_out"
    assert len(events.all(Started)) == 2


async def test_a_handler_slower_than_the_lease_is_not_run_twice(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node("node-a", lease_seconds=1)
    fleet.serve(await fleet.bridge(lease_seconds=1), "node-b")
    receipt = await do(bridge)
    started = await events.wait_for(Started)
    deadline = asyncio.get_running_loop().time() + 2.8  # a lease that lapses is free for 1.3 s before another takes it
    await until(lambda: asyncio.get_running_loop().time() > deadline)
    gate.open()
    outcome = await bridge.outcome(receipt.id, wait=5)
    assert outcome is not None
    assert (outcome.state, outcome.node, len(gate.entered)) == ("done", started.by, 1)


async def test_an_expired_command_is_not_run(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    await fleet.bridge()
    id = await fleet.put(*flat({**GOOD, "expires": 1}))
    bridge = await fleet.node()
    outcome = await bridge.outcome(f"0-{id}", wait=5)
    assert outcome is not None
    assert (outcome.state, outcome.attempts) == ("expired", 0)
    assert events.all(Started) == []


async def test_a_command_that_expires_while_it_waits_is_not_run(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    await do(bridge, 1)
    late = await do(bridge, 2, expires_in=1)
    deadline = asyncio.get_running_loop().time() + 1.1
    await until(lambda: asyncio.get_running_loop().time() > deadline)
    gate.open()
    assert (await events.wait_for(Settled, id=late.id)).state == "expired"
    assert gate.entered == [1]


UNREADABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "foreign": ("undecodable", {"hello": "world"}),
    "not text": ("undecodable", {**GOOD, "by": b"\xff"}),
    "no subject": ("undecodable", {name: value for name, value in GOOD.items() if name != "subject"}),
    "payload no JSON": ("undecodable", {**GOOD, "payload": "}{"}),
    "payload no object": ("undecodable", {**GOOD, "payload": "[]"}),
    "payload unfit": ("undecodable", {**GOOD, "payload": '{"n":"many"}'}),
    "payload not a number": ("undecodable", {**GOOD, "payload": '{"data":NaN}'}),
    "payload infinite": ("undecodable", {**GOOD, "payload": '{"data":1e999}'}),
    "payload deep": ("undecodable", {**GOOD, "payload": '{"data":' + "[" * 900 + "]" * 900 + "}"}),
    "payload no UTF-8": ("undecodable", {**GOOD, "payload": b'{"data":"\xff"}'}),
    "subject of another kind": ("undecodable", {**GOOD, "subject": "room:lobby"}),
    "time beyond all numbers": ("undecodable", {**GOOD, "expires": "9" * 30}),
    "too large": ("too_large", {**GOOD, "payload": '{"data":"' + "x" * 70_000 + '"}'}),
    "many fields": ("too_large", {**GOOD, **{f"field-{i}": "x" * 10 for i in range(5000)}}),
    "version to come": ("unknown_version", {**GOOD, "v": "2"}),
    "unknown type": ("unknown_type", {**GOOD, "type": "desk.other"}),
}


@pytest.mark.parametrize(("code", "fields"), UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_what_cannot_be_handled_is_one_dead_letter_as_it_came(
    fleet: Fleet, events: Recorder, code: str, fields: dict[str, Any]
) -> None:
    bridge = await fleet.bridge()
    before, id = await fleet.put(*flat(GOOD)), await fleet.put(*flat(fields))
    after = await fleet.put(*flat({**GOOD, "payload": '{"n":8}'}))
    await fleet.node()
    for neighbour in (before, after):
        outcome = await bridge.outcome(f"0-{neighbour}", wait=5)
        assert outcome is not None
        assert outcome.state == "done"
    await events.wait_for(Buried, code=code)
    page = await bridge.dead.page(limit=10)
    [letter] = page.items
    assert (letter.id, letter.cause_code) == (f"0-{id}", code)
    raw = {name: base64.b64decode(value) for name, value in letter.raw.items()}
    assert raw == {name: value if isinstance(value, bytes) else str(value).encode() for name, value in fields.items()}
    outcome = await bridge.outcome(f"0-{id}")
    assert outcome is not None
    assert outcome.state == "dead"


async def test_an_entry_that_has_expired_and_is_no_json_has_an_outcome_that_can_be_read(fleet: Fleet) -> None:
    bridge = await fleet.node()
    id = await fleet.put(*flat({**GOOD, "payload": "}{", "expires": 1}))
    outcome = await until(lambda: bridge.outcome(f"0-{id}", wait=5))
    assert outcome.ended


async def test_an_entry_put_by_hand_is_handled_within_a_second_or_so(fleet: Fleet) -> None:
    bridge = await fleet.node()
    id = await fleet.put(*flat(GOOD))
    outcome = await bridge.outcome(f"0-{id}", wait=20)
    assert outcome is not None
    assert outcome.state == "done"


async def test_an_entry_that_carries_an_id_is_known_by_it(fleet: Fleet) -> None:
    bridge = await fleet.node()
    await fleet.put(*flat({**GOOD, "id": "0-5-5"}))
    outcome = await until(lambda: bridge.outcome("0-5-5"))
    assert outcome.id == "0-5-5"


async def test_a_listener_that_raises_changes_no_outcome(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    bridge = await fleet.node()

    def fail(event: object) -> None:
        raise RuntimeError("boom")

    stops = [bridge.telemetry.listen(fail), bridge.telemetry.listen(fail, inline=True)]
    outcome = await bridge.outcome((await do(bridge)).id, wait=5)
    for stop in stops:
        stop()
    assert outcome is not None
    assert outcome.state == "done"


async def test_a_listener_that_blocks_changes_no_outcome(fleet: Fleet) -> None:
    bridge = await fleet.node()
    release = threading.Event()

    def block(event: object) -> None:
        release.wait(30)

    stop = bridge.telemetry.listen(block)
    receipts = await do_many(bridge, range(50))
    outcome = await bridge.outcome(receipts[-1].id, wait=5)
    release.set()
    stop()
    assert outcome is not None
    assert outcome.state == "done"


async def test_settling_goes_in_batches(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    bridge = await fleet.bridge()
    await asyncio.gather(*(do(bridge, i, f"user:u{i}") for i in range(100)))
    calls = int((await fleet.raw.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0))
    await fleet.node()
    await events.wait_for_many(100, Settled)
    spent = int((await fleet.raw.info("commandstats"))["cmdstat_evalsha"]["calls"]) - calls
    assert spent < 80  # one by one they would be a hundred, beside those that go by time


async def test_who_drains_finishes_what_it_started_and_starts_no_more(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    await do(bridge, 1)
    await do(bridge, 2)
    await events.wait_for(Started)
    leaving = asyncio.create_task(fleet.leave("node-a"))
    await until(lambda: fleet.raw.hexists("chat:{nodes}:draining", "node-a"))
    gate.open()
    await leaving
    await events.wait_for(Released)
    assert await fleet.log() == [1]
    desk.handle = Gate()
    desk.handle.open()
    await fleet.node("node-b")
    await events.wait_for_many(2, Settled)
    assert await fleet.log() == [1, 2]


async def test_what_was_read_and_never_started_is_no_death_when_handed_over(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    await do_many(bridge, [1, 2])
    await events.wait_for(Started)
    await until(lambda: sum(event.entries for event in events.all(Read)) == 2)
    leaving = asyncio.create_task(fleet.leave("node-a"))
    await until(lambda: fleet.raw.hexists("chat:{nodes}:draining", "node-a"))
    gate.open()
    await leaving
    await fleet.node("node-b")
    assert (await events.wait_for(Started, by="node-b")).attempt == 1
    await events.wait_for_many(2, Settled)


async def test_a_node_that_does_not_know_a_type_buries_it(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.bridge()
    receipt = await do(bridge)
    await fleet.node(registry=Registry())
    assert (await events.wait_for(Buried, id=receipt.id)).code == "unknown_type"


async def test_a_handler_that_cancels_its_own_task_is_tried_again_and_holds_up_nobody(
    fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    async def cancel_first(command: Command[Do]) -> Effects:
        if command.payload.n == 1 and command.attempt == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()
        return await note(command)

    desk.handle = cancel_first
    bridge = await fleet.node(max_in_flight=1)
    receipts = await do_many(bridge, range(1, 4))
    for receipt in receipts:
        outcome = await bridge.outcome(receipt.id, wait=5)
        assert outcome is not None
        assert outcome.state == "done"
    assert await fleet.log() == [1, 2, 3]
    assert len(events.all(Retried)) == 1


async def test_an_entry_on_another_shard_than_its_subjects_is_a_dead_letter(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node(shards=8)
    own = shard_of("user:u1", 8)
    stray = (own + 1) % 8
    await fleet.put(*flat(GOOD | {"subject": "user:u1"}), shard=stray)
    buried = await events.wait_for(Buried)
    assert buried.code == "undecodable"
    assert f"shard {own}" in buried.cause
    assert await fleet.log("user:u1", stray) == []
    assert (await bridge.dead.page(limit=10)).items[0].subject == "user:u1"
