"""Fixtures of the fault suite: where it runs, a publisher, a fleet of nodes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.client import Bridge
from tests.chatserver.conftest import spawn  # noqa: F401 - a fixture
from tests.faults.fleet import Fleet
from tests.faults.ledger import registry
from tests.recorder import Recorder
from tests.servers import ENGINES
from tests.topologies import KINDS, REPLICATED, Topology
from tests.topologies.fixtures import places


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On one server, or where ``--topology`` and ``--engine`` say; without them, ``anywhere`` tests on all kinds."""
    if "topology" not in metafunc.fixturenames:
        return
    kind, engine = metafunc.config.option.topology, metafunc.config.option.engine
    kinds = tuple(KINDS) if kind == "all" else (kind or "standalone",)
    if kind is None and metafunc.definition.get_closest_marker("anywhere"):
        kinds += REPLICATED
    engines = tuple(ENGINES) if engine == "all" else (engine,)
    metafunc.parametrize("place", places(kinds, engines, slow=lambda _: False), scope="session")


@pytest.fixture
def detection_ms() -> int:
    """Nodes are processes with settings as they come: their calls may take a second."""
    return 2000


@pytest.fixture
def chance(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random choices that ``--seed`` repeats."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of nodes and publisher; a test that needs others overrides this by parameter."""
    return {}


@pytest.fixture
async def bridge(topology: Topology, settings: dict[str, Any], tmp_path: Path) -> AsyncIterator[Bridge]:
    """The publisher's side, in the test's own process; with a journal where a replica may lack the last commands."""
    journal = {"journal": tmp_path / "journal"} if topology.forgets else {}
    async with Bridge.connect(topology.url, registry=registry, **journal, **settings) as bridge:
        yield bridge


@pytest.fixture
async def fleet(topology: Topology, events: Recorder, settings: dict[str, Any]) -> AsyncIterator[Fleet]:
    """Nodes on ``topology``; at the end each must have been silent on its error output."""
    fleet = Fleet(topology.url, topology.directory, events, **settings)
    yield fleet
    await fleet.destroy()
    assert not fleet.complaints()
