"""What the self-check says of Sentinel and Cluster: how soon a lost primary is noticed, and replicas that are away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.client import Bridge, examine
from bridge.config import BridgeSettings
from bridge.errors import Misconfigured
from bridge.telemetry import FaultFound
from tests.recorder import Recorder
from tests.servers import Server
from tests.topologies import ManyServers, Topology, Watched, ask
from tests.topology.party import TIMEOUT_S
from tests.waiting import answered, until

JOURNAL = ("warn", "no_journal")


async def found(bridge: Bridge) -> set[tuple[str, str]]:
    await answered(bridge.self_check.step)
    return {(finding.severity, finding.code) for finding in bridge.self_check.findings}


@pytest.mark.usefixtures("steady")
async def test_only_a_journal_is_missing_where_all_is_well(topology: Topology) -> None:
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S) as bridge:
        assert await found(bridge) == {JOURNAL}


@pytest.mark.usefixtures("steady")
async def test_nothing_is_missing_with_a_journal_or_where_nothing_is_accepted(
    topology: Topology, tmp_path: Path
) -> None:
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S, journal=tmp_path) as bridge:
        assert await found(bridge) == set()
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S, wait_replicas=1) as bridge:
        assert await found(bridge) == set()
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S, publishes=False) as bridge:
        assert await found(bridge) == set()


async def test_a_primary_whose_loss_is_noticed_before_a_call_is_given_up_is_refused(topology: Topology) -> None:
    with pytest.raises(Misconfigured, match=r"noticed after 1 s.*2000 or more"):
        async with Bridge.connect(topology.url, shards=12):  # calls may take a second, and so may the detection
            pass


async def test_detection_that_is_made_quicker_is_found_and_cleared(topology: Topology) -> None:
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S) as bridge:
        await topology.detect_after(900)
        try:
            assert ("refuse", "timeout_too_long") in await found(bridge)
        finally:
            await topology.detect_after(1000)
        assert await found(bridge) == {JOURNAL}


async def test_replicas_that_are_away_are_found_and_cleared(topology: Topology, events: Recorder) -> None:
    telemetry = events.telemetry
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S, telemetry=telemetry) as bridge:
        replica = await one_replica(topology)
        replica.kill()

        async def noticed() -> bool:
            return ("warn", "replica_down") in await found(bridge)

        await until(noticed, 30)
        events.clear()
        await topology.heal()

        async def mended() -> bool:
            return await found(bridge) == {JOURNAL}

        await until(mended, 30)


async def one_replica(topology: Topology) -> Server:
    primary = await topology.owner("chat:{nodes}:live")
    if isinstance(topology, ManyServers):
        return (await topology.replicas(primary))[0]
    return next(server for server in topology.servers if server is not primary)


@pytest.mark.usefixtures("steady")
async def test_as_many_required_replicas_as_there_are_is_found(topology: Topology) -> None:
    primary = await topology.owner("chat:{nodes}:live")
    there_are = 2 if isinstance(topology, Watched) else 1
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S) as bridge:
        try:
            await ask(primary, "CONFIG", "SET", "min-replicas-to-write", there_are)
            assert ("warn", "min_replicas") in await found(bridge)
            assert bridge.self_check.findings[0].server == f"127.0.0.1:{primary.port}"
            await ask(primary, "CONFIG", "SET", "min-replicas-to-write", there_are - 1)
            assert await found(bridge) == {JOURNAL}
        finally:
            await ask(primary, "CONFIG", "SET", "min-replicas-to-write", 0)


@pytest.mark.usefixtures("steady")
async def test_a_promotion_is_reason_to_look(topology: Topology, events: Recorder) -> None:
    primary = await topology.owner("chat:{nodes}:live")
    telemetry = events.telemetry
    async with Bridge.connect(topology.url, shards=12, timeout=TIMEOUT_S, telemetry=telemetry):
        try:
            for server in topology.servers:
                await ask(server, "CONFIG", "SET", "appendfsync", "no")
            promoted = await topology.fail_over(primary)
            await events.wait_for(FaultFound, code="appendfsync_no", server=f"127.0.0.1:{promoted.port}", timeout=30)
        finally:
            for server in topology.servers:
                await ask(server, "CONFIG", "SET", "appendfsync", "always")


async def test_the_doctor_looks_at_what_is_refused(start_topology: Callable[..., Awaitable[Any]]) -> None:
    topology = await start_topology(Watched, replicas=1)
    check = await examine(BridgeSettings(redis_url=topology.url, shards=12))
    assert {("refuse", "timeout_too_long")} == {(each.severity, each.code) for each in check.findings}


@pytest.mark.usefixtures("steady")
async def test_a_primary_that_is_silent_is_told_and_the_others_are_looked_at(cluster: ManyServers) -> None:
    async with Bridge.connect(cluster.url, shards=12, timeout=TIMEOUT_S, publishes=False) as bridge:
        silent = await cluster.owner("chat:{nodes}:live")
        shards = [await cluster.owner(f"chat:{{{shard}}}:commands") for shard in range(12)]
        other = next(server for server in shards if server is not silent)
        await ask(other, "CONFIG", "SET", "appendfsync", "no")
        silent.stop()
        try:
            everything = await found(bridge)
        finally:
            silent.cont()
            await ask(other, "CONFIG", "SET", "appendfsync", "always")
        assert {("warn", "primary_away"), ("warn", "appendfsync_no")} <= everything
