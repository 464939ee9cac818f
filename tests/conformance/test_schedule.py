"""Commands for later: kept by their shard until they are due, and then like any other."""

from __future__ import annotations

import asyncio

import pytest

from bridge.client import Bridge
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.errors import Conflict, IdempotencyMismatch, Invalid, Overloaded
from bridge.shard_stream import Lease
from bridge.telemetry import Buried
from tests.conformance.fleet import Desk, Do, Fleet, do
from tests.recorder import Recorder
from tests.waiting import until

LONG_S = 3600.0
KEYS = ("scheduled", "scheduled:bodies", "scheduled:moved")


async def kept(fleet: Fleet) -> int:
    return sum([await fleet.raw.exists(f"chat:{{0}}:{name}") for name in KEYS])


async def later(bridge: Bridge, seconds: float) -> float:
    return await bridge.inspector.now() + seconds


async def test_it_is_handled_when_it_is_due_and_not_before(fleet: Fleet, desk: Desk) -> None:
    began: list[tuple[float, float]] = []

    async def look(command: Command[Do]) -> None:
        began.append((command.now, command.issued_at))

    desk.handle = look
    bridge = await fleet.node()
    due = await later(bridge, 1.5)
    receipt = await do(bridge, deliver_at=due)
    waiting = await bridge.outcome(receipt.id)
    assert waiting is not None
    assert (waiting.state, waiting.node, waiting.deliver_at) == ("scheduled", None, int(due * 1000))
    ended = await bridge.outcome(receipt.id, wait=5)
    assert ended is not None
    assert [step.state for step in ended.timeline] == ["scheduled", "accepted", "handling", "done"]
    assert (ended.id, ended.deliver_at) == (receipt.id, int(due * 1000))
    [(now, issued)] = began
    assert now >= due - 0.001
    assert issued < due
    assert await kept(fleet) == 0


async def test_a_time_that_is_past_means_now(fleet: Fleet) -> None:
    bridge = await fleet.node()
    receipt = await do(bridge, 5, deliver_at=1.0)
    ended = await bridge.outcome(receipt.id, wait=5)
    assert ended is not None
    assert ended.state == "done"
    assert await fleet.log() == [5]


async def test_what_is_due_at_one_moment_keeps_the_order_of_acceptance(fleet: Fleet) -> None:
    bridge = await fleet.bridge()
    due = await later(bridge, 0.1)
    receipts = [await do(bridge, n, deliver_at=due) for n in range(150)]
    fleet.serve(bridge)
    for receipt in receipts:
        assert await bridge.outcome(receipt.id, wait=5)
    assert await fleet.log() == list(range(150))


async def test_one_that_is_due_sooner_is_not_held_up_by_one_for_later(fleet: Fleet) -> None:
    bridge = await fleet.node()
    far = await do(bridge, 1, deliver_at=await later(bridge, LONG_S))
    near = await do(bridge, 2, deliver_at=await later(bridge, 0.1))
    ended = await bridge.outcome(near.id, wait=5)
    assert ended is not None
    assert ended.state == "done"
    await bridge.cancel(far.id, by="tester")


async def test_it_can_be_cancelled_until_it_is_read(fleet: Fleet) -> None:
    bridge = await fleet.bridge()
    receipt = await do(bridge, deliver_at=await later(bridge, LONG_S))
    cancelled = await bridge.cancel(receipt.id, by="tester")
    assert [step.state for step in cancelled.timeline] == ["scheduled", "cancelled"]
    assert await kept(fleet) == 0
    with pytest.raises(Conflict):
        await bridge.cancel(receipt.id, by="tester")


async def test_one_that_was_moved_and_not_read_can_be_cancelled(fleet: Fleet, bridge: Bridge) -> None:
    stream = bridge.streams[0]
    receipt = await do(bridge, deliver_at=1.0)
    lease = await stream.acquire("node-x/boot")
    moved, _ = await stream.promote(lease)  # type: ignore[arg-type]
    assert moved == 1
    cancelled = await bridge.cancel(receipt.id, by="tester")
    assert [step.state for step in cancelled.timeline] == ["scheduled", "accepted", "cancelled"]
    assert await fleet.raw.xlen("chat:{0}:commands") == 0
    assert await kept(fleet) == 0


async def test_the_same_key_again_is_the_same_command(fleet: Fleet, bridge: Bridge) -> None:
    due = await later(bridge, LONG_S)
    first = await do(bridge, idempotency_key="k", deliver_at=due)
    again = await do(bridge, idempotency_key="k", deliver_at=due)
    assert (again.id, again.duplicate) == (first.id, True)
    with pytest.raises(IdempotencyMismatch):
        await do(bridge, idempotency_key="k", deliver_at=due + 1)
    with pytest.raises(IdempotencyMismatch):
        await do(bridge, idempotency_key="k")
    assert await fleet.raw.ttl("chat:{0}:idem:tester:user:u1:k") > LONG_S  # until it is due, and as long as any after
    await bridge.cancel(first.id, by="tester")


async def test_scheduled_commands_count_towards_the_backlog(fleet: Fleet) -> None:
    bridge = await fleet.bridge(backlog_limit=2)
    due = await later(bridge, LONG_S)
    receipts = [await do(bridge, deliver_at=due) for _ in range(2)]
    with pytest.raises(Overloaded):
        await do(bridge)
    with pytest.raises(Overloaded):
        await do(bridge, deliver_at=due)
    for receipt in receipts:
        await bridge.cancel(receipt.id, by="tester")


async def test_its_expiry_counts_from_when_it_is_due(fleet: Fleet, bridge: Bridge) -> None:
    due = await later(bridge, 60)
    receipt = await do(bridge, deliver_at=due, expires_in=5)
    waiting = await bridge.outcome(receipt.id)
    assert waiting is not None
    assert waiting.expires_at == int(due * 1000) + 5000
    await bridge.cancel(receipt.id, by="tester")


@pytest.mark.parametrize("deliver_at", [0.0, -1.0, 1e12, float("inf"), float("nan")])
async def test_a_time_that_makes_no_sense_is_refused(bridge: Bridge, deliver_at: float) -> None:
    with pytest.raises(Invalid) as refused:
        await do(bridge, deliver_at=deliver_at)
    assert refused.value.path == "/deliver_at"


async def test_a_killed_holder_loses_none_of_them(fleet: Fleet) -> None:
    bridge = await fleet.bridge()
    receipts = [await do(bridge, n, deliver_at=await later(bridge, 0.05)) for n in range(20)]
    lease = await bridge.streams[0].acquire("node-x/boot")
    # It moved some of them, read some of those, and died.
    while not (await bridge.streams[0].promote(lease))[0]:  # type: ignore[arg-type]
        continue
    await bridge.streams[0].read(lease, "node-x", 3)  # type: ignore[arg-type]
    fleet.serve(bridge)
    for receipt in receipts:
        ended = await bridge.outcome(receipt.id, wait=5)
        assert ended is not None
        assert ended.state == "done"
    assert await fleet.log() == list(range(20))
    assert await kept(fleet) == 0


async def test_what_is_due_and_held_is_not_asked_for_without_a_pause(fleet: Fleet) -> None:
    bridge = await fleet.bridge()
    stream, loop = bridge.streams[0], asyncio.get_running_loop()
    receipt = await do(bridge, 1, deliver_at=1.0)
    await stream.vouch("behind", "-")
    await fleet.raw.delete("chat:{0}:history")  # as if this server was another one since
    held: list[float] = []
    promote = stream.promote

    async def note_held(lease: Lease) -> tuple[int, float]:
        moved, again_s = await promote(lease)
        if not moved:
            held.append(loop.time())
        return moved, again_s

    stream.promote = note_held  # type: ignore[method-assign]

    async def often_or_over() -> bool:
        return len(held) > 5 or bool(await fleet.log())

    fleet.serve(bridge)
    await until(often_or_over)
    await stream.vouch("behind", "*")
    assert len(held) <= 4 + (held[-1] - held[0]) / 0.1  # a ring or two may come
    ended = await bridge.outcome(receipt.id, wait=5)
    assert ended is not None
    assert ended.state == "done"


async def test_one_whose_handler_fails_leaves_nothing_behind(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    async def fail(_: Command[Do]) -> Effects:
        raise RuntimeError("no")

    desk.handle = fail
    bridge = await fleet.node(max_attempts=1)
    receipt = await do(bridge, deliver_at=1.0)
    await events.wait_for(Buried, id=receipt.id)
    assert await kept(fleet) == 0
    requeued = await bridge.dead.requeue([receipt.id], by="tester", reason="again")
    [(_, again)] = requeued.done
    assert again is not None
    await events.wait_for(Buried, id=again)


async def test_a_full_server_moves_them_once_it_has_room(own_fleet: Fleet) -> None:
    bridge = await own_fleet.node()
    receipt = await do(bridge, 1, deliver_at=await later(bridge, 1.0))
    await own_fleet.raw.config_set("maxmemory", 1)
    async with asyncio.timeout(10):
        outcome = await bridge.outcome(receipt.id, wait=2)
    assert outcome is not None
    assert outcome.state == "scheduled"
    await own_fleet.raw.config_set("maxmemory", 0)
    ended = await bridge.outcome(receipt.id, wait=10)
    assert ended is not None
    assert ended.state == "done"
