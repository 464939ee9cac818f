"""A primary that nobody replaces holds up its own shards only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from bridge.errors import BridgeError
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.recorder import Recorder
from tests.topologies import ManyServers
from tests.topology.party import Party, gap_of

pytestmark = pytest.mark.timeout(300)
AWAY_S = 4.0
SETTINGS = {"timeout": 1.0}  # as services have it: longer than what is left of a lease between two renewals


@pytest.mark.parametrize("whose", ["some shards'", "the nodes'"])
async def test_while_a_primary_is_away_other_shards_go_on(
    start_topology: Callable[..., Awaitable[ManyServers]], events: Recorder, whose: str, full: bool, figures: Figures
) -> None:
    cluster = await start_topology(ManyServers, node_timeout_ms=2000, cluster_require_full_coverage="no")
    async with Party.meet(cluster.url, events, nodes=("node-a", "node-b", "node-c"), **SETTINGS) as party:
        keys, shard_of = party.publisher.keys, party.publisher.shard_of
        of_nodes = await cluster.owner(keys.live)
        victim = of_nodes
        if whose == "some shards'":
            victim = next(server for server in await cluster.primaries() if server is not of_nodes)
        async with party.load(per_s=40) as load:
            elsewhere = [
                room for room in load.rooms if await cluster.owner(keys.commands(shard_of(room))) is not victim
            ]
            await load.more(60)
            for replica in await cluster.replicas(victim):
                replica.kill()
            states = asyncio.create_task(seen_states(party, AWAY_S))
            cluster.stop(victim)
            await states
            cluster.cont(victim)
            await party.all_rooms_go_on(load)
        await party.drained()
        (await party.audit(load)).clean()
    gap = max(gap_of(load, room) for room in elsewhere)
    figures.report(f"cluster: {whose} primary away for {AWAY_S:g} s", rooms_elsewhere=len(elsewhere), write_gap_s=gap)
    assert 0 < len(elsewhere) < len(load.rooms)
    assert gap < (AWAY_S / 2 if full else AWAY_S * 0.9)  # this process may have been held up as well
    assert states.result()["dead"] <= 3  # all of them in one look, right after this process was held up
    if whose == "some shards'":
        assert states.result()["live"]


async def seen_states(party: Party, seconds: float) -> Counter[str]:
    """How nodes looked meanwhile."""
    seen: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    over = loop.time() + seconds
    while loop.time() < over:
        try:
            seen.update(node.state for node in await party.listener.inspector.nodes(with_lag=False))
        except BridgeError as error:
            seen[type(error).__name__] += 1
        await elapsed(0.05)
    return seen
