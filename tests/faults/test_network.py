"""Connections cut, held and delayed between a node and the server, and between the publisher and the server."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import pytest

from bridge.client import Bridge
from tests.faults.audit import audit, conclude, drained
from tests.faults.fleet import Fleet
from tests.faults.ledger import registry
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.proxy import Proxies
from tests.topologies import Topology

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

FAULTS: dict[str, tuple[Callable[[Proxies], None], float]] = {
    "connections reset": (lambda proxy: proxy.drop(), 0.0),
    "refused": (lambda proxy: proxy.cut(), 3.0),
    "nothing arrives": (lambda proxy: proxy.black_hole(), 3.0),
    "answers are lost": (lambda proxy: proxy.black_hole(requests=False), 3.0),
    "80 ms late": (lambda proxy: proxy.delay(0.08), 2.0),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_connection_that_fails_costs_nothing_but_time(
    topology: Topology,
    fleet: Fleet,
    start_proxies: Callable[[], Awaitable[Proxies]],
    fault: str,
    chance: random.Random,
    full: bool,
    figures: Figures,
) -> None:
    inflict, seconds = FAULTS[fault]
    node_side, publisher_side = await start_proxies(), await start_proxies()
    await fleet.start("a", "b")
    await fleet.start("c", url=node_side.url)
    faults = []
    async with Bridge.connect(publisher_side.url, registry=registry) as bridge:
        async with Load(bridge) as load:
            for _ in range(5 if full else 1):
                for proxy in (node_side, publisher_side):
                    await load.more(chance.randrange(50, 100))
                    faults.append(time.time() * 1000)
                    inflict(proxy)
                    await elapsed(seconds if full else seconds / 2)
                    proxy.heal()
                await load.more(100)
        await drained(bridge)
        books = await audit(bridge, load)
        conclude(f"{fault}: a node, then the publisher", books, len(faults), books.waits(faults), figures)
