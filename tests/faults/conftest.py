"""Fixtures of the fault suite: a server of the test's own, a publisher, a fleet of nodes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.client import Bridge
from tests.faults.fleet import Fleet
from tests.faults.ledger import registry
from tests.recorder import Recorder
from tests.servers import Server


@pytest.fixture
def chance(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random choices that ``--seed`` repeats."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of nodes and publisher; a test that needs others overrides this by parameter."""
    return {}


@pytest.fixture
async def bridge(own_server: Server, settings: dict[str, Any]) -> AsyncIterator[Bridge]:
    """The publisher's side, in the test's own process."""
    async with Bridge.connect(own_server.url, registry=registry, **settings) as bridge:
        yield bridge


@pytest.fixture
async def fleet(own_server: Server, events: Recorder, settings: dict[str, Any]) -> AsyncIterator[Fleet]:
    """Nodes on ``own_server``; at the end each must have been silent on its error output."""
    fleet = Fleet(own_server.url, own_server.directory, events, **settings)
    yield fleet
    await fleet.destroy()
    assert not fleet.complaints()
