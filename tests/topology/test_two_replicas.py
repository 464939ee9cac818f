"""Three primaries with two replicas each: a shard outlives two of its servers, although a replica must have each write.

With one replica each that would end the shard: the promoted one has nobody to replicate to. Here the second loss is
made good by a replica that another primary can spare.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.figures import Figures
from tests.recorder import Recorder
from tests.servers import DEFAULT_ENGINE
from tests.topologies import ManyServers
from tests.topology.party import Party, longest_wait, write_gap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("engine", [DEFAULT_ENGINE, "redis-7.0"])
async def test_a_shard_outlives_two_of_its_servers(
    start_topology: Callable[..., Awaitable[ManyServers]], events: Recorder, engine: str, figures: Figures
) -> None:
    cluster = await start_topology(ManyServers, engine, replicas=2)
    await cluster.configure(min_replicas_to_write="1")
    async with Party.meet(cluster.url, events) as party:
        key = party.publisher.keys.commands(party.publisher.shard_of("room:r0"))
        async with party.load() as load:
            for _ in range(2):
                await load.more(100)
                primary = await cluster.owner(key)
                primary.kill()
                await cluster.promoted(primary)
                await party.all_rooms_go_on(load)
        await party.drained()
        books = await party.audit(load)
    figures.report(
        f"cluster 3+6 {engine}: two servers of a shard killed", accepted=books.accepted, lost=len(books.lost),
        write_gap_s=write_gap(load), longest_wait_s=longest_wait(books),
    )  # fmt: skip
    books.lost.clear()  # these publishers keep no journal
    books.clean()
