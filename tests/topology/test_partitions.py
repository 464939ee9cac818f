"""A primary of the past that still answers its clients: what it takes meanwhile is no part of what survives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bridge.urls import topology_of
from tests.figures import Figures
from tests.servers import Server
from tests.topologies import ManyServers, Watched, ask, role
from tests.topologies.base import has_role
from tests.topology.party import Party, longest_wait, write_gap
from tests.waiting import until

ALL_PACKETS, NONE = "-2", "-1"


@asynccontextmanager
async def minority(server: Server) -> AsyncIterator[None]:
    """It hears of no other server and replicates nothing; clients still reach it."""
    await ask(server, "ACL", "SETUSER", "default", "-psync", "-sync")
    await ask(server, "CLIENT", "KILL", "TYPE", "replica")
    await ask(server, "DEBUG", "DROP-CLUSTER-PACKET-FILTER", ALL_PACKETS)
    try:
        yield
    finally:
        await ask(server, "DEBUG", "DROP-CLUSTER-PACKET-FILTER", NONE)
        await ask(server, "ACL", "SETUSER", "default", "+@all")


@pytest.mark.timeout(300)
async def test_what_a_primary_in_the_minority_takes_is_no_part_of_what_survives(
    cluster: ManyServers, party: Party, figures: Figures
) -> None:
    if cluster.engine == "redis-7.0":
        pytest.skip("it cannot be told to hear nobody")
    async with party.broadcasts() as broadcasts, party.load() as load:
        await load.more(100)
        old = await cluster.owner(party.publisher.keys.commands(party.publisher.shard_of("room:r0")))
        async with minority(old):
            taken = len(load.accepted["room:r0"])
            await until(lambda: len(load.accepted["room:r0"]) > taken + 1, 30, what="it takes commands")
            if cluster.engine == "redis-8":  # it still sends, and whoever does is alive to the others
                await cluster.fail_over(old, "TAKEOVER")
            else:
                await cluster.promoted(old)
            await party.all_rooms_go_on(load)
        await load.more(100)

        async def has_followed() -> bool:
            return await role(old) == "slave"

        await until(has_followed, 60, what="the old primary follows the new one")
    await party.drained()
    books, heard = await party.audit(load), await broadcasts.heard()
    figures.report(
        f"cluster {cluster.engine} a primary in the minority", accepted=books.accepted, lost=len(books.lost),
        write_gap_s=write_gap(load), longest_wait_s=longest_wait(books), heard=heard.received,
    )  # fmt: skip
    assert books.lost, "it took nothing: then it was not cut off"
    assert not await party.survivors(books)
    books.lost.clear()
    books.clean()
    heard.clean()


async def test_a_primary_that_gave_its_place_away_tells_where_before_sentinels_do(sentinel: Watched) -> None:
    topology = topology_of(sentinel.url)
    primary = await sentinel.named()
    replica = next(server for server in sentinel.servers if server is not primary)
    (endpoint,) = (await topology.look(1)).primaries
    assert endpoint.port == primary.port
    await hand_over(primary, replica)
    try:
        assert await sentinel.named() is primary
        assert (await topology.look(1)).primaries == (replace(endpoint, port=replica.port),)
    finally:
        await hand_over(replica, primary)


async def hand_over(primary: Server, replica: Server) -> None:
    """Without a word to the sentinels."""
    await ask(primary, "FAILOVER", "TO", "127.0.0.1", replica.port)
    await until(has_role(replica, "master"))
    await until(has_role(primary, "slave"))
