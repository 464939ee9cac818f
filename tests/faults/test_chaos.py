"""Kills and pauses at random, for minutes: every accepted command takes effect once, in its room's order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from bridge.client import Bridge
from tests.faults.audit import audit, conclude, drained
from tests.faults.fleet import Fleet, Member
from tests.faults.ledger import registry
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.proxy import Proxies
from tests.topologies import Topology

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
NODES = ("a", "b", "c", "d", "e")
KILLS = PAUSES = 55
COMMANDS = 5_000


class Chaos:
    """Kills and pauses members, never all of them at a time."""

    def __init__(self, fleet: Fleet, chance: random.Random, lease_s: float) -> None:
        self.faults: list[float] = []
        self._fleet, self._chance, self._lease_s = fleet, chance, lease_s
        self._well = set(NODES)

    async def kill_one(self) -> None:
        member = self._pick()
        member.kill()
        await member.ended()
        await elapsed(self._chance.uniform(0, 1))
        await self._fleet.start(member.name)
        self._well.add(member.name)

    async def pause_one(self) -> None:
        member = self._pick()
        member.stop()
        await elapsed(self._lease_s + self._chance.uniform(0.2, 1.5))
        member.cont()
        self._well.add(member.name)

    def _pick(self) -> Member:
        name = self._chance.choice(sorted(self._well))
        self._well.discard(name)
        self.faults.append(time.time() * 1000)
        return self._fleet.members[name]


async def test_random_kills_and_pauses(
    topology: Topology, bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    if not full:
        pytest.skip("takes minutes: make faults")
    await fleet.start(*NODES)
    chaos = Chaos(fleet, chance, bridge.settings.lease_seconds)

    async def killing() -> None:
        for _ in range(KILLS):
            await elapsed(chance.uniform(0, 2))
            await chaos.kill_one()

    async def pausing() -> None:
        for _ in range(PAUSES):
            await elapsed(chance.uniform(0, 0.5))
            await chaos.pause_one()

    async with Load(bridge, per_s=60) as load:
        async with asyncio.TaskGroup() as mischief:
            mischief.create_task(killing())
            mischief.create_task(pausing())
        if load.count < COMMANDS:
            await load.more(COMMANDS - load.count, timeout=300)
    await drained(bridge)
    books = await audit(bridge, load)
    waits = [(done - accepted) / 1000 for accepted, done in books.times]
    conclude(f"chaos: {KILLS} kills and {PAUSES} pauses", books, len(chaos.faults), waits, figures)


async def test_random_faults_of_everything(
    topology: Topology,
    fleet: Fleet,
    start_proxies: Callable[[], Awaitable[Proxies]],
    tmp_path: Path,
    chance: random.Random,
    full: bool,
    figures: Figures,
) -> None:
    """Nodes, connections and the primaries, all at once."""
    if not full:
        pytest.skip("takes minutes: make faults")
    wire = await start_proxies()
    for name in NODES:
        await fleet.start(name, url=wire.url)
    chaos = Chaos(fleet, chance, lease_s=1.5)

    async def nodes() -> None:
        for _ in range(40):
            await elapsed(chance.uniform(0, 1))
            await chance.choice((chaos.kill_one, chaos.pause_one))()

    async def connections() -> None:
        for _ in range(20):
            await elapsed(chance.uniform(1, 4))
            chance.choice((wire.drop, wire.black_hole, partial(wire.delay, 0.2)))()
            await elapsed(chance.uniform(0, 2))
            wire.heal()

    async def primaries() -> None:
        for _ in range(10):
            await elapsed(chance.uniform(2, 8))
            await topology.crash(await topology.primary(chance), away_s=chance.uniform(0, 1))
            await topology.heal()

    journal = {"journal": tmp_path / "journal"} if topology.forgets else {}
    async with Bridge.connect(topology.url, registry=registry, **journal) as bridge:
        async with Load(bridge, per_s=60) as load, asyncio.TaskGroup() as mischief:
            for each in (nodes, connections, primaries):
                mischief.create_task(each())
        await drained(bridge)
        books = await audit(bridge, load)
    waits = [(done - accepted) / 1000 for accepted, done in books.times]
    conclude("chaos: nodes, connections, primaries", books, len(chaos.faults) + 30, waits, figures, fail_s=None)
