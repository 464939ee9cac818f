"""Fixtures of the topology suite: Sentinel and clusters, shared between tests, and a party that works on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.conftest import _require
from tests.recorder import Recorder
from tests.servers import DEFAULT_ENGINE, ENGINES, Server
from tests.topologies import KINDS, ManyServers, Topology, Watched
from tests.topology.party import Party


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on every engine, in the quick profile on the bundled one."""
    kinds = {"topology": tuple(KINDS), "cluster": ("cluster",), "sentinel": ("sentinel",)}
    for fixture, names in kinds.items():
        if fixture in metafunc.fixturenames:
            places = [
                pytest.param(
                    (kind, engine), id=f"{kind}-{engine}", marks=() if engine == DEFAULT_ENGINE else pytest.mark.slow
                )
                for engine in ENGINES
                for kind in names
            ]
            metafunc.parametrize("place", places, scope="session")
            return


@pytest.fixture(scope="session")
def shared_topologies() -> Iterator[dict[tuple[str, str], Topology]]:
    topologies: dict[tuple[str, str], Topology] = {}
    yield topologies
    for topology in topologies.values():
        topology.destroy()


@pytest.fixture
async def running(
    place: tuple[str, str],
    shared_topologies: dict[tuple[str, str], Topology],
    shared_servers: dict[str, Server],
) -> AsyncIterator[Topology]:
    """Healthy and empty; a test may kill, stop and move what it likes. The next test of its kind gets it healed."""
    kind, engine = place
    _require(engine)
    topology = shared_topologies.get(place)
    if topology is None:
        topology = shared_topologies[place] = await KINDS[kind].launch(engine)
        # It stays for other tests: the check for processes left behind knows these.
        shared_servers |= {f"{kind} {server.directory}": server for server in topology.everybody}
    yield topology
    try:
        await topology.reset()
    except Exception:  # this test broke it; the next one gets another
        for server in topology.everybody:
            del shared_servers[f"{kind} {server.directory}"]
        shared_topologies.pop(place).destroy()


@pytest.fixture
def topology(running: Topology) -> Topology:
    """Sentinel, and a cluster."""
    return running


@pytest.fixture
def cluster(running: Topology) -> ManyServers:
    assert isinstance(running, ManyServers)
    return running


@pytest.fixture
def sentinel(running: Topology) -> Watched:
    assert isinstance(running, Watched)
    return running


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of the party; a test that needs others overrides this by parameter."""
    return {}


@pytest.fixture
async def party(running: Topology, events: Recorder, settings: dict[str, Any]) -> AsyncIterator[Party]:
    """A publisher, two nodes and a listener, each with connections of its own."""
    async with Party.meet(running.url, events, **settings) as party:
        yield party


@pytest.fixture
async def start_topology() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Start one of this test's own, to leave it broken: ``await start_topology(ManyServers, replicas=2)``."""
    started: list[Topology] = []

    async def start(kind: type[Topology], engine: str = DEFAULT_ENGINE, **options: Any) -> Topology:
        _require(engine)
        started.append(await kind.launch(engine, **options))
        return started[-1]

    yield start
    for topology in started:
        topology.destroy()
