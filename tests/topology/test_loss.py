"""What was accepted by a primary that is lost: with the journal all of it takes effect, without it some is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from bridge.telemetry import NotReplayed, Replayed, Superseded
from tests.faults.audit import Audit
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.recorder import Recorder
from tests.servers import Server
from tests.topologies import Topology, Watched, ask
from tests.topology.party import Party, longest_wait, write_gap
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
PER_S = 300


@pytest.fixture(params=[True, False], ids=["journal", "no-journal"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param else None


@pytest.fixture(params=["journal", "wait", "neither"])
def safety(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What the publisher does against loss."""
    levels: dict[str, dict[str, Any]] = {"journal": {"journal": tmp_path}, "wait": {"wait_replicas": 1}, "neither": {}}
    return levels[request.param]


async def test_a_replica_that_lagged_takes_the_place_of_its_primary(
    topology: Topology, events: Recorder, safety: dict[str, Any], full: bool, figures: Figures
) -> None:
    async with Party.meet(topology.url, events, publisher=safety) as party:
        async with party.load(per_s=PER_S) as load:
            await load.more(300)
            for _ in range(5 if full else 1):
                await forced_fail_over(topology, party, load, lag_s=1.5)
        books = await concluded(party, load)
    report(f"{topology.kind} {topology.engine} forced lag {[*safety]}", books, load, events, figures)
    judge(books, events, safe=bool(safety))


async def forced_fail_over(topology: Topology, party: Party, load: Load, *, lag_s: float) -> None:
    """Cut the primary's replicas off, lose it that much later, and go on with one of them."""
    primary = await topology.owner(party.publisher.keys.commands(party.publisher.shard_of("room:r0")))
    replicas = await replicas_of(topology, primary)
    for replica in replicas:
        topology.stop(replica)
    await ask(primary, "CLIENT", "KILL", "TYPE", "replica")
    tried = attempts(load)
    await elapsed(lag_s)
    await until(lambda: attempts(load) > tried + 1, 30, what="somebody asks the primary")
    primary.kill()
    for replica in replicas:
        topology.cont(replica)
    await topology.promoted(primary)
    await topology.heal()  # a cluster's primary has a replica to wait for again
    await party.all_rooms_go_on(load)


def attempts(load: Load) -> int:
    """Commands for the primary that were accepted, and refusals."""
    return len(load.accepted["room:r0"]) + load.refusals.total()


async def replicas_of(topology: Topology, primary: Server) -> list[Server]:
    found: list[Server] = []
    for server in topology.servers:
        role = await ask(server, "ROLE")
        if role[0] == b"slave" and int(role[2]) == primary.port:
            found.append(server)
    assert found
    return found


async def test_a_primary_that_was_cut_off_with_the_publisher_is_wiped(
    sentinel: Watched,
    events: Recorder,
    journal: Path | None,
    start_proxy: Callable[..., Any],
    full: bool,
    figures: Figures,
) -> None:
    """A split brain: it goes on accepting, while the others have another primary."""
    proxies = [await start_proxy(watcher, tcp=True) for watcher in sentinel.watchers]
    url = sentinel.url
    for watcher, proxy in zip(sentinel.watchers, proxies, strict=True):
        url = url.replace(str(watcher.port), proxy.url.rpartition(":")[2])
    async with Party.meet(sentinel.url, events, publisher={"journal": journal, "url": url}) as party:
        async with party.load(per_s=PER_S) as load:
            await load.more(300)
            old = await sentinel.named()
            for proxy in proxies:
                proxy.cut()
            async with cut_off(old):
                await load.more(10)
                await sentinel.promoted(old)
                await elapsed(10 if full else 2)
            for proxy in proxies:
                proxy.heal()
            await until(lambda: party.publisher.redis.placement.primaries[0].port != old.port, 60)
            await sentinel.healthy()
            await load.more(200)
        books = await concluded(party, load)
    name = "journal" if journal else "neither"
    report(f"sentinel {sentinel.engine} split brain ['{name}']", books, load, events, figures)
    judge(books, events, safe=journal is not None)


@asynccontextmanager
async def cut_off(server: Server) -> AsyncIterator[None]:
    """Who is connected stays so, but for replicas and sentinels; nobody gets in."""
    inside = redis.asyncio.Redis.from_url(server.url, single_connection_client=True)
    try:
        await inside.execute_command("ACL", "SETUSER", "default", "off")
        await inside.execute_command("CLIENT", "KILL", "TYPE", "replica")
        for client in await inside.client_list():
            if client["name"].startswith("sentinel-"):
                await inside.execute_command("CLIENT", "KILL", "ID", client["id"])
        yield
        await inside.execute_command("ACL", "SETUSER", "default", "on")
    finally:
        await inside.aclose()


async def concluded(party: Party, load: Load) -> Audit:
    await party.drained()
    return await party.audit(load)


def report(scenario: str, books: Audit, load: Load, events: Recorder, figures: Figures) -> None:
    replays = events.all(Replayed)
    figures.report(
        scenario, accepted=books.accepted, lost=len(books.lost), twice=len(books.twice),
        out_of_order=len(books.out_of_order), put_back=sum(replay.put_back for replay in replays),
        replay_s=max((replay.took_s for replay in replays), default=0.0), write_gap_s=write_gap(load),
        longest_wait_s=longest_wait(books),
    )  # fmt: skip


def judge(books: Audit, events: Recorder, *, safe: bool) -> None:
    if not safe:
        assert books.lost, "the fault cost nothing, so this test would not see a journal that does nothing"
        books.lost.clear()
    else:
        assert events.all(Superseded) == []
        assert events.all(NotReplayed) == []
    books.clean()
