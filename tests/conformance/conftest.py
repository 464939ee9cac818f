"""Fixtures of the conformance suite: everything in it runs on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bridge.client import Bridge
from bridge.shard_stream import Lease, ShardStream
from tests.conformance.fleet import Desk, Fleet, take
from tests.recorder import Recorder
from tests.servers import Server

LONG_S = 60.0


@pytest.fixture
def desk() -> Desk:
    """Set ``desk.handle`` to say what nodes do; see ``note`` for the usual."""
    return Desk()


@pytest.fixture
async def fleet(server: Server, events: Recorder, desk: Desk) -> AsyncIterator[Fleet]:
    """Bridges and nodes on the shared server, and the check that commands leave nothing behind."""
    async with Fleet(server, events, desk) as fleet:
        yield fleet
    assert await fleet.leftovers() == []


@pytest.fixture
async def own_fleet(own_server: Server, events: Recorder, desk: Desk) -> AsyncIterator[Fleet]:
    """Bridges and nodes on a server that the test may kill and configure."""
    async with Fleet(own_server, events, desk) as fleet:
        yield fleet
    assert await fleet.leftovers() == []


@pytest.fixture
async def bridge(fleet: Fleet) -> Bridge:
    """A connected bridge that serves nothing; a lease that it takes by hand runs out in no test."""
    return await fleet.bridge(lease_seconds=LONG_S)


@pytest.fixture
async def stream(fleet: Fleet, bridge: Bridge) -> ShardStream:
    """Shard 0, which nobody holds."""
    fleet.by_hand = True
    return bridge.streams[0]


@pytest.fixture
async def lease(stream: ShardStream) -> Lease:
    """The lease of shard 0, held by the test as node-x."""
    return await take(stream)
