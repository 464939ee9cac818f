"""SIGKILL of a node under load: nothing is lost, nothing happens twice, order holds, others take over."""

from __future__ import annotations

import random
import time

import pytest

from bridge.client import Bridge
from tests.faults.audit import audit, drained
from tests.faults.fleet import Fleet
from tests.faults.load import Load
from tests.figures import Figures, spread
from tests.servers import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
FAIL_S = 10.0


async def test_a_killed_node_loses_nothing_and_others_take_over(
    own_server: Server, bridge: Bridge, fleet: Fleet, chance: random.Random, full: bool, figures: Figures
) -> None:
    client = own_server.client()
    await fleet.start("a", "b", "c")
    kills: list[float] = []
    async with Load(bridge) as load:
        for _ in range(20 if full else 3):
            await load.more(chance.randrange(100, 200))
            victim = chance.choice(fleet.running)
            kills.append(time.time() * 1000)
            victim.kill()
            await victim.ended()
            await load.more(300)
            await fleet.start(victim.name)
    await drained(client, bridge)
    books = await audit(client, bridge, load)
    waits = [wait for kill in kills for wait in books.waits(kill, kill + 2000)]
    figures.report("SIGKILL of a node", rounds=len(kills), commands=books.accepted, lost=len(books.lost),
                   twice=len(books.twice), out_of_order=len(books.out_of_order), wait_s=spread(waits))  # fmt: skip
    books.clean()
    assert max(waits) < FAIL_S

