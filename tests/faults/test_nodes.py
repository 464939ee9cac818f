"""Nodes killed, paused and replaced under load: nothing lost, nothing twice, in order, and soon on others."""

from __future__ import annotations

import random
import signal
import time
from functools import partial

import pytest

from bridge.client import Bridge
from bridge.shards import wanted
from bridge.telemetry import Acquired, LostLease
from tests.faults.audit import audit, conclude, drained
from tests.faults.fleet import Fleet
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.figures import Figures, spread
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
PAUSE_S = 4.0
SHARDS = 12


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


@pytest.mark.anywhere
@pytest.mark.parametrize("settings", [{"shards": SHARDS}], ids=["12 shards"])
async def test_the_shards_of_a_killed_node_are_soon_held_by_others(
    bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    gaps = []
    for _ in range(20 if full else 3):
        lost = await at_home(bridge, fleet)
        await elapsed(0.3 + chance.random())  # at any moment between two heartbeats, of somebody who was seen
        victim = chance.choice(fleet.running)
        others = lost[victim.name]
        elsewhere = {"node": lambda name, dead=victim.name: name != dead, "shard": others.__contains__}
        before = len(fleet.events.all(Acquired, **elsewhere))
        killed = time.perf_counter()
        victim.kill()
        await fleet.events.wait_for_many(before + len(others), Acquired, timeout=30, **elsewhere)
        gaps.append(time.perf_counter() - killed)
        await victim.ended()
        await fleet.start(victim.name)
    figures.report("SIGKILL of a node, until others hold its shards", seconds=spread(gaps))


async def at_home(bridge: Bridge, fleet: Fleet) -> dict[str, set[int]]:
    """Wait until every shard is held by whom it ought to be; shards by node."""
    names = sorted(member.name for member in fleet.running)
    ought = {name: set(wanted(name, names, SHARDS)) for name in names}

    async def settled() -> bool:
        found: dict[str | None, set[int]] = {}
        for info in await bridge.shard_infos():
            found.setdefault(info.holder, set()).add(info.shard)
        return found == ought

    await until(settled, 60)  # what somebody took for another is kept for ten seconds
    return ought


async def test_a_paused_node_that_wakes_changes_nothing(
    bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    stops = []
    async with Load(bridge) as load:
        for _ in range(20 if full else 3):
            await load.more(chance.randrange(50, 150))
            zombie = chance.choice(fleet.running)
            held = await until(partial(shards_of, bridge, zombie.name), 60, what="it has shards again")
            fleet.events.clear()
            stops.append(now_ms())
            zombie.stop()
            await elapsed(PAUSE_S)
            await fleet.events.wait_for(Acquired, timeout=30, shard=held.__contains__)
            zombie.cont()
            await fleet.events.wait_for(LostLease, timeout=30, node=zombie.name, regained=False)
    await drained(bridge)
    books = await audit(bridge, load)
    conclude("SIGSTOP of a node for 4 s", books, len(stops), books.waits(stops), figures)


async def shards_of(bridge: Bridge, node: str) -> set[int]:
    return {info.shard for info in await bridge.shard_infos() if info.holder == node}


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
