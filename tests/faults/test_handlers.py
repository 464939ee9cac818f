"""Handlers that do what they must not: kill their process, take long, hang, raise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.client import Bridge
from bridge.record import Outcome
from bridge.telemetry import Acquired, Buried, Retried, Settled, Started
from tests.faults.audit import ledger
from tests.faults.fleet import Fleet
from tests.faults.ledger import Dying
from tests.figures import Figures

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
LEASE_S = 0.5
LONGER_LEASE_S = 2.0  # a busy machine may stall a node for longer than half a second


@pytest.fixture
def settings() -> dict[str, Any]:
    """One shard, so that every subject shares it with the culprit."""
    return {"shards": 1, "lease_seconds": LEASE_S, "handler_seconds": 1.0, "max_attempts": 3, "backoff_seconds": 0.1}


async def test_a_handler_that_kills_its_process_is_buried_alone(bridge: Bridge, fleet: Fleet, figures: Figures) -> None:
    await fleet.start("a", "b", "c", "d")
    killer = (await bridge.publish("fault.die", "room:killer", {}, by="test")).id
    others = [await publish(bridge, f"room:r{i}", n) for i in range(20) for n in range(3)]
    after = await publish(bridge, "room:killer", 1)
    await fleet.events.wait_for_many(2, Dying, timeout=60)
    others += [await publish(bridge, f"room:late{i}", 0) for i in range(5)]  # while it still goes about
    buried = await fleet.events.wait_for(Buried, id=killer, timeout=60)

    assert (await ended(bridge, after)).state == "done"
    assert {(await ended(bridge, id)).state for id in others} == {"done"}
    deaths = fleet.events.all(Dying)
    assert len(deaths) == bridge.settings.max_deaths
    assert (buried.code, len(fleet.events.all(Buried))) == ("killed_its_node", 1)
    letters = await bridge.dead.page(limit=10)
    assert [(letter.id, letter.attempts) for letter in letters.items] == [(killer, bridge.settings.max_deaths)]
    died_at = (await ended(bridge, killer)).timeline[-1].at
    meanwhile = [id for id in others if (await ended(bridge, id)).timeline[-1].at < died_at]
    assert meanwhile
    figures.report("a handler that kills its process", deaths=len(deaths), buried=1, done_meanwhile=len(meanwhile),
                   others=len(others))  # fmt: skip


@pytest.mark.parametrize("settings", [{"shards": 1, "lease_seconds": LONGER_LEASE_S}])
async def test_a_handler_that_takes_longer_than_the_lease_runs_once(bridge: Bridge, fleet: Fleet, full: bool) -> None:
    seconds = 8.0 if full else LONGER_LEASE_S + 2  # one that lapses is free for 1.3 s before another node takes it
    await fleet.start("a", "b")
    slow = (await bridge.publish("fault.linger", "room:slow", {"n": 0, "seconds": seconds}, by="test")).id
    behind, beside = await publish(bridge, "room:slow", 1), await publish(bridge, "room:quick", 0)
    assert (await ended(bridge, beside)).state == "done"
    outcome = await ended(bridge, slow)
    assert (outcome.state, outcome.attempts) == ("done", 1)
    assert (await ended(bridge, behind)).state == "done"
    await fleet.events.wait_for(Settled, id=behind)
    assert len(fleet.events.all(Started, id=slow)) == 1
    assert [line[b"n"] for _, line in await ledger(bridge, "room:slow")] == [b"0", b"1"]
    assert len(fleet.events.all(Acquired)) <= 2  # nobody took the shard but to share it out


async def test_a_handler_that_hangs_is_cut_at_its_limit(bridge: Bridge, fleet: Fleet) -> None:
    await fleet.start("a")
    hanging = (await bridge.publish("fault.hang", "room:h", {}, by="test")).id
    behind, beside = await publish(bridge, "room:h", 0), await publish(bridge, "room:other", 0)
    assert (await ended(bridge, beside)).state == "done"
    outcome = await ended(bridge, hanging)
    assert (outcome.state, outcome.attempts) == ("dead", bridge.settings.max_attempts)
    assert outcome.error is not None
    assert outcome.error.code == "timed_out"
    assert (await ended(bridge, behind)).state == "done"
    steps = [step for step in outcome.timeline if step.state in ("handling", "retrying")]
    for started, cut in zip(steps[::2], steps[1::2], strict=False):
        assert 999 <= cut.at - started.at < 10_000  # both are rounded, and the machine may be busy


async def test_a_handler_that_raises_is_tried_again_and_its_subject_waits(bridge: Bridge, fleet: Fleet) -> None:
    await fleet.start("a")
    failure = bridge.publish("fault.fail", "room:f", {"n": 0, "until": 3}, by="test")
    # In one write, so that none of them waits for this process.
    receipt, behind, beside = await asyncio.gather(failure, publish(bridge, "room:f", 1), publish(bridge, "room:o", 0))
    failing = receipt.id
    assert (await ended(bridge, behind)).state == "done"
    outcome = await ended(bridge, failing)
    assert (outcome.state, outcome.attempts) == ("done", 3)
    retries = fleet.events.all(Retried, id=failing)
    assert [(retry.attempt, retry.after_s) for retry in retries] == [(1, 0.1), (2, 0.2)]
    written = await ledger(bridge, "room:f")
    assert [(line[b"n"], line[b"before"]) for _, line in written] == [(b"0", b""), (b"1", b"0")]
    assert (await ended(bridge, beside)).timeline[-1].at < outcome.timeline[-1].at


async def publish(bridge: Bridge, room: str, n: int) -> str:
    return (await bridge.publish("ledger.add", room, {"n": n}, by="test")).id


async def ended(bridge: Bridge, id: str) -> Outcome:
    outcome = await bridge.outcome(id, wait=30)
    assert outcome is not None
    assert outcome.ended, outcome
    return outcome
