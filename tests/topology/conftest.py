"""Fixtures of the topology suite: where its tests run, and a party that works there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.recorder import Recorder
from tests.servers import DEFAULT_ENGINE, ENGINES
from tests.topologies import REPLICATED, Topology
from tests.topologies.fixtures import places
from tests.topology.party import Party

STEADY_MS = 20_000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on every engine, in the quick profile on the bundled one."""
    for fixture, kinds in {"cluster": ("cluster",), "sentinel": ("sentinel",), "topology": REPLICATED}.items():
        if fixture in metafunc.fixturenames:
            params = places(kinds, ENGINES, slow=lambda place: place[1] != DEFAULT_ENGINE)
            metafunc.parametrize("place", params, scope="session")
            return


@pytest.fixture
async def steady(topology: Topology) -> None:
    """Nobody takes a primary's place by himself, however long a busy machine stalls: for tests without an accident."""
    await topology.detect_after(STEADY_MS)


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of the party; a test that needs others overrides this by parameter."""
    return {}


@pytest.fixture
async def party(topology: Topology, events: Recorder, settings: dict[str, Any]) -> AsyncIterator[Party]:
    """A publisher, two nodes and a listener, each with connections of its own."""
    async with Party.meet(topology.url, events, **settings) as party:
        yield party
