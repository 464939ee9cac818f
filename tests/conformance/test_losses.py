"""A running node whose server forgets, dies or restarts goes on by itself."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from typing import Any

import pytest

from bridge.client import Bridge
from bridge.envelope import Command
from bridge.errors import Retry, Unreachable
from bridge.telemetry import Acquired, Buried, Disconnected, LostLease, Retried, Settled, StepFailed
from tests.conformance.fleet import Desk, Do, Fleet, Gate, do, do_many
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import answered, until


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
        for n in range(200):
            await answered(partial(do, bridge, n, idempotency_key=f"k{n}"))  # the same key where the outcome is unknown
            accepted.append(n)

    publishing = asyncio.create_task(publish())
    await until(lambda: len(accepted) > 50)
    own_fleet.server.kill()
    await events.wait_for(Disconnected)
    await own_fleet.server.restart()
    await publishing

    async def all_there() -> bool:
        return len(await own_fleet.log()) == 200

    await until(all_there)
    assert await own_fleet.log() == list(range(200))


async def test_a_paused_server_holds_things_up_and_loses_nothing(own_fleet: Fleet, events: Recorder) -> None:
    bridge = await own_fleet.node(timeout=0.5)
    await do_many(bridge, range(5))
    own_fleet.server.stop()
    with pytest.raises(Unreachable):
        await do(bridge, 5, idempotency_key="k")
    own_fleet.server.cont()
    await answered(partial(do, bridge, 5, idempotency_key="k"))

    async def all_there() -> bool:
        return await own_fleet.log() == list(range(6))

    await until(all_there)


async def test_a_server_that_takes_no_writes_for_a_while_is_no_cause_for_dead_letters(
    own_fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    gate = Gate()
    desk.handle = gate
    bridge = await own_fleet.node()
    receipts = await do_many(bridge, range(1, 3))
    await until(lambda: gate.entered)
    await own_fleet.raw.config_set("min-replicas-to-write", 1)
    gate.open()
    await events.wait_for(StepFailed)  # the heartbeat is refused too
    await own_fleet.raw.config_set("min-replicas-to-write", 0)
    for receipt in [*receipts, await do(bridge, 3)]:
        outcome = await bridge.outcome(receipt.id, wait=10)
        assert outcome is not None
        assert outcome.state == "done"
    assert await own_fleet.log() == [1, 2, 3]
    assert events.all(Buried) == []


async def test_a_retry_that_was_due_before_everything_was_lost_starts_nothing(
    own_fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    gate = Gate()

    async def first_fails(command: Command[Do]) -> Any:
        if command.payload.n == 0:
            raise Retry(0.2)
        return await gate(command)

    desk.handle = first_fails
    bridge = await own_fleet.node()
    await do(bridge, 0)
    retried = await events.wait_for(Retried)
    await own_fleet.raw.flushall()
    await events.wait_for(LostLease)
    await do_many(bridge, range(1, 4))
    await until(lambda: gate.entered)
    its_time = asyncio.Event()
    asyncio.get_running_loop().call_later(retried.after_s, its_time.set)
    await its_time.wait()
    await do(bridge, 4)
    gate.open()
    await events.wait_for_many(4, Settled)
    assert gate.most == 1
    assert await own_fleet.log() == [1, 2, 3, 4]


async def test_lists_that_cannot_be_read_leave_no_error_that_nobody_heard(own_server: Server) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["message"]))
    async with Bridge.connect(own_server.url, shards=4, timeout=0.5) as bridge:
        own_server.kill()
        for list_ in (bridge.shard_infos, bridge.nodes):
            with pytest.raises(Unreachable):
                await list_()
            gc.collect()
    assert told == []
