"""A running node whose server forgets, dies or restarts goes on by itself."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import Unreachable
from bridge.telemetry import Acquired, Disconnected, LostLease, Settled, StepFailed
from tests.conformance.fleet import Desk, Fleet, Gate, do, do_many
from tests.recorder import Recorder
from tests.waiting import until


async def test_forgotten_scripts_are_sent_again(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node()
    await do(bridge, 1)
    await events.wait_for(Settled)
    await fleet.raw.script_flush()
    await do(bridge, 2)
    await events.wait_for_many(2, Settled)
    assert await fleet.log() == [1, 2]
    assert events.all(LostLease) == []


async def test_an_emptied_server_heals_without_a_restart_and_without_noise(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node(shards=8)
    await events.wait_for_many(8, Acquired)
    for round_ in range(3):
        await fleet.raw.flushall()
        receipts = [await do(bridge, i, f"user:u{i}") for i in range(16)]
        for receipt in receipts:
            await events.wait_for(Settled, id=receipt.id)
        await until(lambda: _all_held(fleet))
        assert len(events.all(StepFailed)) <= round_ + 1
    assert len(events.all(LostLease)) <= 3 * 8 * 2


async def _all_held(fleet: Fleet) -> bool:
    return len(await fleet.raw.keys("chat:{*}:lease")) == 8


async def test_what_is_sent_while_the_server_is_emptied_ends_once(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    desk.handle = gate = Gate()
    bridge = await fleet.node()
    await do(bridge, 1)
    await until(lambda: gate.entered)
    await fleet.raw.flushall()
    gate.open()
    receipt = await do(bridge, 2)
    assert (await events.wait_for(Settled, id=receipt.id)).state == "done"
    assert await fleet.log() == [2]


async def test_a_killed_server_that_comes_back_loses_nothing(own_fleet: Fleet, events: Recorder) -> None:
    bridge = await own_fleet.node()
    accepted: list[int] = []

    async def publish() -> None:
        for n in range(400):
            try:
                await do(bridge, n, idempotency_key=f"k{n}")
            except Unreachable:  # its outcome is unknown: the same key again
                await until(lambda: bridge.redis.connected)
                await do(bridge, n, idempotency_key=f"k{n}")
            accepted.append(n)

    publishing = asyncio.create_task(publish())
    await until(lambda: len(accepted) > 100)
    own_fleet.server.kill()
    await events.wait_for(Disconnected)
    await own_fleet.server.restart()
    await publishing

    async def all_there() -> bool:
        return len(await own_fleet.log()) == 400

    await until(all_there)
    assert await own_fleet.log() == list(range(400))


async def test_a_paused_server_holds_things_up_and_loses_nothing(own_fleet: Fleet, events: Recorder) -> None:
    bridge = await own_fleet.node(timeout=0.2)
    await do_many(bridge, range(5))
    own_fleet.server.stop()
    with pytest.raises(Unreachable):
        await do(bridge, 5, idempotency_key="k")
    own_fleet.server.cont()
    await until(lambda: bridge.redis.connected)
    await do(bridge, 5, idempotency_key="k")

    async def all_there() -> bool:
        return await own_fleet.log() == list(range(6))

    await until(all_there)
