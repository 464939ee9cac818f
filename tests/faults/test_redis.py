"""The server killed, emptied and full under load."""

from __future__ import annotations

import random
import time

import pytest

from bridge.client import Bridge
from bridge.errors import ServerFull
from bridge.telemetry import Acquired, Disconnected, LostLease, StepFailed
from tests.faults.audit import audit, conclude, drained
from tests.faults.fleet import Fleet
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.topologies import Topology
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
RECOVERY_S = 2.0
MAX_ERRORS_PER_S = 20


@pytest.mark.anywhere
async def test_a_killed_server_comes_back_with_everything(
    topology: Topology, bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    answers = []
    async with Load(bridge) as load:
        for _ in range(20 if full else 3):
            await load.more(chance.randrange(100, 300))
            await topology.crash(await topology.primary(chance), away_s=chance.uniform(0, 1.5))
            answers.append(time.time() * 1000)
            await load.more(200)
            await topology.heal()
    await drained(bridge)
    books = await audit(bridge, load)
    waits = books.waits_for_server(answers)
    conclude("SIGKILL of a primary", books, len(answers), waits, figures)


async def test_a_server_that_stalls_does_everything_once(
    topology: Topology, bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    """What was sent meanwhile is done when it goes on, although everybody has given up and asked again."""
    await fleet.start("a", "b", "c")
    answers = []
    async with Load(bridge) as load:
        for _ in range(10 if full else 1):
            await load.more(chance.randrange(100, 200))
            await topology.stall(await topology.primary(chance), chance.uniform(0.5, 7) if full else 2.5)
            answers.append(time.time() * 1000)
            await load.more(200)
            await topology.heal()
    await drained(bridge)
    books = await audit(bridge, load)
    conclude("SIGSTOP of a primary", books, len(answers), books.waits_for_server(answers), figures)


async def test_nodes_work_again_after_flushall(
    topology: Topology, bridge: Bridge, fleet: Fleet, full: bool, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    flushes, errors = [], []
    async with Load(bridge) as load:
        for _ in range(20 if full else 2):
            await load.more(200)
            fleet.events.clear()
            emptied = await topology.flush()
            flushes.append(max(emptied.values()))
            await elapsed(1)
            errors.append(sum(len(fleet.events.all(kind)) for kind in (LostLease, StepFailed, Disconnected)))
            await load.more(150)
    await drained(bridge)
    owners = {room: await topology.owner(bridge.keys.commands(bridge.shard_of(room))) for room in load.rooms}
    books = await audit(bridge, load, since_ms={room: emptied[owner] for room, owner in owners.items()})
    figures.report("FLUSHALL: events about errors", in_the_second_after=max(errors))
    conclude("FLUSHALL, last round", books, 1, books.waits(flushes[-1:]), figures)


async def test_a_full_server_refuses_drains_and_is_taken_over(
    topology: Topology, bridge: Bridge, fleet: Fleet, figures: Figures
) -> None:
    await fleet.start("a", "b", "c")
    async with Load(bridge) as load:
        await load.more(150)
        victim = fleet.members["a"]
        shards = [event.shard for event in fleet.events.all(Acquired, node="a")]
        started = await lingering(bridge, shards, seconds=1.0)
        await topology.configure(maxmemory="1mb")
        with pytest.raises(ServerFull):
            await bridge.publish("ledger.add", "room:full", {"n": 0}, by="test")
        fleet.events.clear()
        victim.kill()
        killed = time.monotonic()
        held = await still_held(bridge, "a")
        await until(
            lambda: {e.shard for e in fleet.events.all(Acquired)} >= held, timeout=30, what="a's shards are taken over"
        )
        taken_over = time.monotonic() - killed
        await drained(bridge)
        assert [(await bridge.outcome(id)).state for id in started] == ["done"] * len(started)  # type: ignore[union-attr]
        assert load.refusals["ServerFull"] > 0
        await topology.configure(maxmemory="0")
        freed = time.time() * 1000
        await load.more(200)
    await drained(bridge)
    figures.report("full server: a killed node's shards taken over", shards=len(held), after_s=round(taken_over, 3))
    books = await audit(bridge, load)
    conclude("full server, then freed", books, 1, books.waits([freed]), figures)


async def lingering(bridge: Bridge, shards: list[int], *, seconds: float) -> list[str]:
    """Commands in rooms of these shards that take that long."""
    rooms = [room for room in (f"room:slow{i}" for i in range(300)) if bridge.shard_of(room) in shards][:20]
    receipts = [await bridge.publish("fault.linger", room, {"n": 0, "seconds": seconds}, by="test") for room in rooms]
    return [receipt.id for receipt in receipts]


async def still_held(bridge: Bridge, node: str) -> set[int]:
    return {info.shard for info in await bridge.shard_infos() if info.holder == node}
