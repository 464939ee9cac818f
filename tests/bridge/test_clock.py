"""The server's clock carries on by itself, and asks no wall clock."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge.clock import ServerClock, every
from bridge.telemetry import StepFailed
from tests.recorder import Recorder


def test_the_clock_says_what_the_server_said() -> None:
    clock = ServerClock()
    clock.heard(1_000_000.5)
    assert clock.now() == pytest.approx(1_000_000.5, abs=60)
    assert clock.now_ms() == pytest.approx(1_000_000_500, abs=60_000)


def test_the_clock_does_not_follow_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ServerClock()
    clock.heard(time.time())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300)
    assert clock.now() == pytest.approx(real(), abs=60)


def test_the_clock_goes_on_between_answers() -> None:
    clock = ServerClock()
    clock.heard(0)
    first = clock.now()
    while clock.now() == first:
        pass
    assert clock.now() > first


async def test_a_loop_runs_at_once_and_again(events: Recorder) -> None:
    steps: asyncio.Queue[int] = asyncio.Queue()

    async def step() -> None:
        steps.put_nowait(1)

    task = asyncio.create_task(every(0.001, step, name="test", telemetry=events.telemetry))
    for _ in range(3):
        await asyncio.wait_for(steps.get(), 30)
    task.cancel()


async def test_a_step_that_fails_is_reported_and_runs_again(events: Recorder) -> None:
    async def step() -> None:
        raise RuntimeError("boom")

    task = asyncio.create_task(every(0.001, step, name="test", telemetry=events.telemetry))
    await events.wait_for_many(2, StepFailed, name="test", cause="RuntimeError: boom")
    task.cancel()
