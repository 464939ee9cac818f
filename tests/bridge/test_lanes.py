"""Which commands a node's lanes start beside which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bridge import lanes as module
from bridge.lanes import Job, Lanes


@pytest.fixture
async def lanes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lanes]:
    """Room for two; nobody has patience."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    lanes = Lanes(2)
    yield lanes
    await lanes.close()


async def started(lanes: Lanes, *jobs: str) -> list[str]:
    """Which of these run once the lanes had time: a name in capitals is a suspect's."""
    ran: list[str] = []

    def job(name: str) -> Job:
        async def run() -> None:
            ran.append(name)

        return run

    for name in jobs:
        lanes.submit(job(name), alone=name.isupper())
    for _ in range(20):  # turns of the loop
        await asyncio.wait([asyncio.ensure_future(_nothing())])
    return ran


async def _nothing() -> None:
    pass


async def test_what_waits_for_its_settle_takes_room_until_it_is_set_aside(lanes: Lanes) -> None:
    await started(lanes, "a", "b")
    assert lanes.load == lanes.size
    lanes.set_aside(alone=False)
    assert lanes.load == 1
    lanes.take_back(alone=False)
    assert lanes.load == lanes.size


async def test_a_suspect_starts_beside_nothing_but_what_was_set_aside(lanes: Lanes) -> None:
    await started(lanes, "a")
    assert await started(lanes, "X", "b") == []
    lanes.set_aside(alone=False)
    await started(lanes)
    assert lanes.load == 2  # X, which has its turn, and b
    assert await started(lanes, "c") == []
    lanes.let_go(alone=True)
    assert await started(lanes, "d") == ["d"]


async def test_a_suspect_is_alone_whatever_settles_meanwhile(lanes: Lanes) -> None:
    await started(lanes, "a")
    lanes.set_aside(alone=False)
    assert await started(lanes, "X") == ["X"]
    lanes.take_back(alone=False)
    lanes.let_go(alone=False)
    assert await started(lanes, "b") == []


async def test_while_a_suspects_result_is_aside_others_start_and_no_second_suspect(lanes: Lanes) -> None:
    """A process that dies now is blamed on the first as well."""
    await started(lanes, "X")
    lanes.set_aside(alone=True)
    assert await started(lanes, "Y", "a") == ["a"]
    lanes.let_go(alone=False)
    lanes.take_back(alone=True)
    lanes.let_go(alone=True)
    assert await started(lanes, "b") == []  # Y has its turn, alone
