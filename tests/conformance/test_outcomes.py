"""What became of a command: by id, and waiting for it."""

from __future__ import annotations

import asyncio

import pytest

from bridge.client import Bridge
from bridge.envelope import Command
from bridge.errors import Invalid
from bridge.telemetry import Retried
from tests.conformance.fleet import Desk, Do, Fleet, Gate, do
from tests.recorder import Recorder
from tests.waiting import until


@pytest.mark.parametrize("id", ["0-1-1", "9-1-1"])
async def test_an_unknown_id_has_no_outcome(bridge: Bridge, id: str) -> None:
    assert await bridge.outcome(id) is None
    assert await bridge.outcome(id, wait=0.1) is None


@pytest.mark.parametrize("id", ["", "abc", "1-2"])
async def test_what_is_no_id_is_refused(bridge: Bridge, id: str) -> None:
    with pytest.raises(Invalid):
        await bridge.outcome(id)


@pytest.mark.parametrize("wait", [-1, 31])
async def test_waiting_is_bounded(bridge: Bridge, wait: float) -> None:
    with pytest.raises(Invalid):
        await bridge.outcome("0-1-1", wait=wait)


async def test_an_accepted_command_says_so(bridge: Bridge) -> None:
    receipt = await do(bridge, 3, reason="because")
    outcome = await bridge.outcome(receipt.id)
    assert outcome is not None
    assert (outcome.state, outcome.node, outcome.attempts, outcome.ended) == ("accepted", None, 0, False)
    assert (outcome.payload, outcome.reason, outcome.subject) == ({"n": 3}, "because", "user:u1")


async def test_a_command_being_handled_names_its_node(fleet: Fleet, desk: Desk) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    receipt = await do(bridge)
    await until(lambda: gate.entered)
    outcome = await bridge.outcome(receipt.id)
    assert outcome is not None
    assert (outcome.state, outcome.node, outcome.attempts) == ("handling", "node-a", 1)
    gate.open()
    await bridge.outcome(receipt.id, wait=5)


async def test_a_command_that_will_be_tried_again_says_so(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    async def fail(command: Command[Do]) -> None:
        if command.attempt == 1:
            raise ValueError("not yet")

    desk.handle = fail
    fleet.by_hand = True  # it stays pending, since nobody waits for its next try
    bridge = await fleet.node(backoff_seconds=10)
    receipt = await do(bridge)
    await events.wait_for(Retried)
    outcome = await bridge.outcome(receipt.id)
    assert outcome is not None
    assert outcome.state == "retrying"


async def test_waiting_ends_with_the_command(fleet: Fleet, desk: Desk) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    receipt = await do(bridge)
    waiting = [asyncio.create_task(bridge.outcome(receipt.id, wait=20)) for _ in range(3)]
    await until(lambda: gate.entered)
    gate.open()
    outcomes = await asyncio.gather(*waiting)
    assert [outcome.state for outcome in outcomes if outcome is not None] == ["done"] * 3


async def test_waiting_ends_at_its_deadline(bridge: Bridge) -> None:
    receipt = await do(bridge)
    begin = asyncio.get_running_loop().time()
    outcome = await bridge.outcome(receipt.id, wait=0.2)
    assert outcome is not None
    assert outcome.state == "accepted"
    assert 0.2 <= asyncio.get_running_loop().time() - begin < 10


async def test_an_end_whose_word_was_lost_is_noticed(fleet: Fleet, desk: Desk) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    receipt = await do(bridge)
    waiting = asyncio.create_task(bridge.outcome(receipt.id, wait=20))
    await until(lambda: gate.entered)
    gate.open()
    await fleet.raw.client_kill_filter(_type="pubsub")
    outcome = await waiting
    assert outcome is not None
    assert outcome.state == "done"


async def test_outcomes_expire(fleet: Fleet) -> None:
    bridge = await fleet.node(outcome_seconds=60)
    receipt = await do(bridge)
    await bridge.outcome(receipt.id, wait=5)
    assert 50 < await fleet.raw.ttl(f"chat:{{0}}:outcome:{receipt.id}") <= 60
