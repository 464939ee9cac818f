"""Commands and outcomes that count only once a replica has them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backoffice.history import History, Wanted
from backoffice.records import Records
from bridge.errors import NotReplicated, Unreachable
from bridge.telemetry import Settled
from tests.recorder import Recorder
from tests.servers import Server
from tests.topologies import Topology
from tests.topology.party import Party
from tests.topology.test_loss import replicas_of
from tests.waiting import answered, until

ROOM = "room:r0"


async def replicas(topology: Topology, party: Party) -> list[Server]:
    """Of the primary that has the room."""
    return await replicas_of(
        topology, await topology.owner(party.publisher.keys.commands(party.publisher.shard_of(ROOM)))
    )


async def publish(party: Party, n: int, **options: Any) -> Any:
    return await party.publisher.publish("ledger.add", ROOM, {"n": n}, by="test", **options)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("settings", [{"wait_replicas": 1}])
async def test_a_command_counts_only_once_a_replica_has_it(topology: Topology, party: Party) -> None:
    await asyncio.gather(*(answered(partial(publish, party, n, idempotency_key=f"n{n}")) for n in range(50)))
    lagging = await replicas(topology, party)
    for replica in lagging:
        topology.stop(replica)
    with pytest.raises(NotReplicated):
        await publish(party, 50, idempotency_key="k")
    with pytest.raises(NotReplicated):  # a repetition is no better
        await publish(party, 50, idempotency_key="k")
    for replica in lagging:
        topology.cont(replica)

    async def accepted() -> Any:
        try:
            return await publish(party, 50, idempotency_key="k")
        except Unreachable:
            return None

    assert (await until(accepted, 30)).duplicate
    await party.drained()


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("settings", [{"wait_replicas": 1}])
async def test_the_replica_has_it_where_the_server_had_forgotten_the_script(topology: Topology, party: Party) -> None:
    await answered(partial(publish, party, 0, idempotency_key="n0"))
    lagging = await replicas(topology, party)
    await topology.flush_scripts()
    for replica in lagging:
        topology.stop(replica)
    with pytest.raises(NotReplicated):
        await publish(party, 1, idempotency_key="n1")
    for replica in lagging:
        topology.cont(replica)
    assert (await answered(partial(publish, party, 1, idempotency_key="n1"))).duplicate
    await party.drained()


@pytest.mark.usefixtures("steady")
async def test_done_is_told_once_a_replica_has_it(topology: Topology, party: Party, events: Recorder) -> None:
    """A fail-over right after an operator was told must not undo what they were told."""
    before = await publish(party, 0)
    assert await state(party, before.id, wait=20) == "done"
    lagging = await replicas(topology, party)
    for replica in lagging:
        topology.stop(replica)
    receipt = await publish(party, 1)
    await events.wait_for(Settled, id=receipt.id)
    assert await state(party, receipt.id) == "handling"
    assert await state(party, before.id) == "done"
    for replica in lagging:
        topology.cont(replica)
    assert await state(party, receipt.id, wait=30) == "done"


@pytest.mark.usefixtures("steady")
async def test_the_history_has_what_ended_once_a_replica_has_it(
    topology: Topology, party: Party, events: Recorder, tmp_path: Path
) -> None:
    async with Records.open(f"sqlite+aiosqlite:///{tmp_path}/history.sqlite3") as records:
        history = History(records, party.publisher)

        async def done() -> list[str]:
            with suppress(Unreachable):
                await history.step()
            return [outcome.id for outcome in (await history.search(Wanted(state="done"), limit=10)).outcomes]

        async def has(*ids: str) -> bool:
            return await done() == list(ids)

        before = await publish(party, 0)
        await until(partial(has, before.id))
        lagging = await replicas(topology, party)
        for replica in lagging:
            topology.stop(replica)
        receipt = await publish(party, 1)
        await events.wait_for(Settled, id=receipt.id)
        assert await done() == [before.id]
        late = History(records, party.publisher)
        await late.step()
        assert late.progress.share < 1
        for replica in lagging:
            topology.cont(replica)
        await until(partial(has, receipt.id, before.id))

        async def caught_up() -> bool:
            await late.step()
            return late.progress.share == 1

        await until(caught_up)


async def state(party: Party, id: str, wait: float = 0) -> str:
    outcome = await answered(partial(party.publisher.outcome, id, wait=wait))
    assert outcome is not None
    return outcome.state
