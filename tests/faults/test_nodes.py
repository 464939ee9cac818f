"""Nodes killed, paused and replaced under load: nothing lost, nothing twice, in order, and soon on others."""

from __future__ import annotations

import random
import signal
import time

import pytest

from bridge.client import Bridge
from bridge.telemetry import LostLease
from tests.faults.audit import audit, conclude, drained
from tests.faults.fleet import Fleet
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.figures import Figures

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
PAUSE_S = 4.0


@pytest.mark.anywhere
async def test_a_killed_node_loses_nothing_and_others_take_over(
    bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    kills = []
    async with Load(bridge) as load:
        for round_ in range(20 if full else 3):
            await load.more(chance.randrange(100, 200))
            victim = chance.choice(fleet.running)
            kills.append(now_ms())
            victim.kill()
            assert await victim.ended() == -signal.SIGKILL
            if round_ % 2:  # at once, as a supervisor does, while its name still counts as alive
                await fleet.start(victim.name)
            await load.more(350)
            if not round_ % 2:
                await fleet.start(victim.name)
    await drained(bridge)
    books = await audit(bridge, load)
    conclude("SIGKILL of a node", books, len(kills), books.waits(kills), figures)


async def test_a_paused_node_that_wakes_changes_nothing(
    bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    stops = []
    async with Load(bridge) as load:
        for _ in range(20 if full else 3):
            await load.more(chance.randrange(50, 150))
            zombie = chance.choice(fleet.running)
            fleet.events.clear()
            stops.append(now_ms())
            zombie.stop()
            await elapsed(PAUSE_S)
            zombie.cont()
            await fleet.events.wait_for(LostLease, node=zombie.name, regained=False)
    await drained(bridge)
    books = await audit(bridge, load)
    conclude("SIGSTOP of a node for 4 s", books, len(stops), books.waits(stops), figures)


async def test_nodes_replaced_one_by_one_hold_nothing_up(
    bridge: Bridge, fleet: Fleet, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    stops = []
    async with Load(bridge) as load:
        for _ in range(20 if full else 3):
            for name in ("a", "b", "c"):
                leaving = fleet.members[name]
                stops.append(now_ms())
                leaving.terminate()
                assert await leaving.ended() == 0
                await load.more(30)
                await fleet.start(name)
    await drained(bridge)
    books = await audit(bridge, load)
    conclude("SIGTERM of each node in turn", books, len(stops), books.waits(stops), figures)


def now_ms() -> float:
    """The clock that the server on this machine has too."""
    return time.time() * 1000
