"""The whole command path and broadcasts through fail-overs: what survived took effect once, in order."""

from __future__ import annotations

import pytest

from bridge.telemetry import Settled, Started
from tests.figures import Figures
from tests.recorder import Recorder
from tests.topologies import ManyServers, Topology, Watched, ask
from tests.topology.conftest import STEADY_MS
from tests.topology.party import Party, longest_wait, write_gap


@pytest.mark.usefixtures("steady")
async def test_commands_and_broadcasts_work_as_on_one_server(topology: Topology, party: Party) -> None:
    async with party.broadcasts() as broadcasts, party.load() as load:
        await load.more(200)
    await party.drained()
    (await party.audit(load)).clean()
    (await broadcasts.heard()).clean()
    receipt = await party.publisher.publish("ledger.add", "room:r1", {"n": 10_000}, by="test")
    outcome = await party.publisher.outcome(receipt.id, wait=20)
    assert outcome is not None
    assert outcome.state == "done"
    assert {node.name for node in await party.publisher.nodes()} == set(party.nodes)


@pytest.mark.parametrize("how", ["planned", "killed", "stopped"])
async def test_what_survives_a_fail_over_took_effect_once_and_in_order(
    topology: Topology, party: Party, how: str, full: bool, figures: Figures
) -> None:
    async with party.broadcasts() as broadcasts, party.load() as load:
        await load.more(100)
        primary = await topology.owner(party.publisher.keys.commands(party.publisher.shard_of("room:r0")))
        match how:
            case "planned":
                await topology.detect_after(STEADY_MS)  # nothing may be lost, so nobody else may be replaced
                await topology.fail_over(primary)
            case "killed":
                primary.kill()
                await topology.promoted(primary)
            case "stopped":
                topology.stop(primary)
                await topology.promoted(primary)
        await party.all_rooms_go_on(load)
        if how == "stopped":
            topology.cont(primary)  # it believes that it is the primary still
        await load.more(200)
    await party.drained()
    books = await party.audit(load)
    heard = await broadcasts.heard()
    figures.report(
        f"{topology.kind} {topology.engine} {how}",
        accepted=books.accepted,
        lost=len(books.lost),
        write_gap_s=write_gap(load),
        longest_wait_s=longest_wait(books),
        heard=heard.received,
        broadcast_gap_s=heard.gap_s,
        silence_s=heard.silence_s,
    )
    assert not await party.survivors(books)
    if how != "planned":  # what was accepted and not yet replicated is gone; the publisher's journal has it
        books.lost.clear()
    books.clean()
    heard.clean()
    if full and topology.kind == "cluster":
        assert write_gap(load) < (0.5 if how == "planned" else 3)
        assert heard.silence_s < heard.gap_s + 0.5


@pytest.mark.parametrize("how", ["FORCE", pytest.param("TAKEOVER", marks=pytest.mark.slow)])
async def test_a_forced_fail_over_of_a_cluster_keeps_what_was_replicated(
    cluster: ManyServers, party: Party, how: str
) -> None:
    async with party.broadcasts() as broadcasts, party.load() as load:
        await load.more(100)
        await party.all_follow(await cluster.fail_over(await cluster.owner(party.publisher.keys.live), how))
        await party.all_rooms_go_on(load)
    await party.drained()
    books = await party.audit(load)
    assert not await party.survivors(books)
    books.lost.clear()
    books.clean()
    (await broadcasts.heard()).clean()


async def test_sentinels_promote_while_the_primary_still_takes_writes(sentinel: Watched, party: Party) -> None:
    async with party.broadcasts() as broadcasts, party.load() as load:
        await load.more(100)
        await party.all_follow(await sentinel.fail_over(await sentinel.named(), "forced"))
        await party.all_rooms_go_on(load)
    await party.drained()
    books = await party.audit(load)
    assert not await party.survivors(books)
    books.lost.clear()  # what the old primary took meanwhile
    books.clean()
    (await broadcasts.heard()).clean()


@pytest.mark.slow
async def test_a_primary_that_is_back_before_anybody_replaced_it_has_everything(
    topology: Topology, party: Party
) -> None:
    async with party.broadcasts() as broadcasts, party.load() as load:
        await load.more(100)
        primary = await topology.owner(party.publisher.keys.live)
        await primary.restart()
        await party.all_rooms_go_on(load)
    await party.drained()
    books = await party.audit(load)
    assert not await party.survivors(books)
    if await topology.owner(party.publisher.keys.live) is not primary:  # they replaced it all the same
        books.lost.clear()
    books.clean()
    (await broadcasts.heard()).clean()


async def test_what_was_handled_on_a_lost_past_is_handled_again_in_order(
    cluster: ManyServers, events: Recorder
) -> None:
    """The first command's settling is lost with the primary while the second is being handled."""
    async with Party.meet(cluster.url, events, nodes=("node-a",)) as party:
        bridge, room = party.publisher, "room:r0"
        primary = await cluster.owner(bridge.keys.commands(bridge.shard_of(room)))
        (replica,) = await cluster.replicas(primary)
        first = await bridge.publish("fault.linger", room, {"n": 1, "seconds": 3}, by="test")
        second = await bridge.publish("fault.linger", room, {"n": 2, "seconds": 3}, by="test")
        await events.wait_for(Started, id=first.id)
        await cluster.synced(primary, replica)
        cluster.stop(replica)
        await ask(primary, "CLIENT", "KILL", "TYPE", "replica")
        await events.wait_for(Settled, id=first.id)
        await events.wait_for(Started, id=second.id)
        primary.kill()
        too_soon = len(events.all(Settled, id=second.id))
        cluster.cont(replica)
        await events.wait_for_many(2, Settled, id=first.id, timeout=60)
        await events.wait_for_many(too_soon + 1, Settled, id=second.id, timeout=60)
        assert [line[b"n"] for _, line in await party.ledger(room)] == [b"1", b"2"]
        assert [line[b"before"] for _, line in await party.ledger(room)] == [b"", b"1"]
