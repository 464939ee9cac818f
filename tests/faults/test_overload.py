"""More commands than can be handled: refused at the limit, in memory that does not grow."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson
import pytest

from bridge.client import Bridge
from bridge.guard import guarded, needs_pipe
from tests.faults.audit import drained
from tests.faults.fleet import REPOSITORY, Fleet
from tests.figures import Figures
from tests.topologies import Topology

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
LIMIT = 200
GROWTH = 8 << 20  # bytes that a process may gain from the first second to the last


@pytest.fixture
def settings() -> dict[str, Any]:
    """200 a second: ten slots of 50 ms each."""
    return {"shards": 2, "backlog_limit": LIMIT, "max_in_flight": 10}


async def test_ten_times_too_many_are_refused_and_memory_stays_flat(
    topology: Topology, bridge: Bridge, fleet: Fleet, full: bool, figures: Figures
) -> None:
    [node] = await fleet.start("a")
    flood = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, "-m", "tests.faults.flood", topology.url, "60" if full else "4", "2000"]),
        cwd=REPOSITORY, stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert flood.stdout is not None
    seconds, backlog, node_rss = [], 0, []
    async for line in flood.stdout:
        seconds.append(orjson.loads(line))
        backlog = max(backlog, *(info.length for info in await bridge.shard_infos()))
        node_rss.append(node.rss())
    assert await flood.wait() == 0
    await drained(bridge, timeout=30)
    total = {name: sum(second[name] for second in seconds) for name in ("accepted", "Overloaded", "other")}
    rss = [second["rss"] for second in seconds]
    figures.report(
        "ten times too many", seconds=len(seconds), **total, highest_backlog=backlog, limit=LIMIT,
        publisher_grew_kib=(rss[-1] - rss[1]) >> 10, node_grew_kib=(node_rss[-1] - node_rss[1]) >> 10,
    )  # fmt: skip
    assert total["other"] == 0
    assert total["Overloaded"] > (5 if full else 1) * total["accepted"]  # a busy machine floods more slowly
    assert backlog <= LIMIT
    assert rss[-1] - rss[1] < GROWTH
    assert node_rss[-1] - node_rss[1] < GROWTH
