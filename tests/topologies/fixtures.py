"""Fixtures: a topology of each kind and engine, shared between tests, and proxies before all of its servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest

from tests.proxy import Proxies
from tests.servers import DEFAULT_ENGINE, ENGINES, Server, require
from tests.topologies import KINDS, ManyServers, Topology, Watched

Place = tuple[str, str]  # kind, engine
Shared = dict[tuple[Place, int], Topology]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bridge")
    group.addoption("--topology", choices=(*KINDS, "all"), help="where tests/faults runs (default: standalone)")
    group.addoption("--engine", choices=(*ENGINES, "all"), default=DEFAULT_ENGINE, help="its servers")


def places(kinds: Iterable[str], engines: Iterable[str], *, slow: Callable[[Place], bool]) -> list[Any]:
    """Parameters for ``place``."""
    return [
        pytest.param((kind, engine), id=f"{kind}-{engine}", marks=pytest.mark.slow if slow((kind, engine)) else ())
        for engine in engines
        for kind in kinds
    ]


@pytest.fixture(scope="session")
def shared_topologies() -> Iterator[Shared]:
    topologies: Shared = {}
    yield topologies
    for topology in topologies.values():
        topology.destroy()


@pytest.fixture
def detection_ms() -> int:
    """After which a lost primary is noticed: twice what a call of the test's clients may take, at least."""
    return 1000


@pytest.fixture
async def topology(
    place: Place, detection_ms: int, shared_topologies: Shared, shared_servers: dict[str, Server]
) -> AsyncIterator[Topology]:
    """Healthy and empty; a test may kill, stop and move what it likes. The next test of its kind gets it healed."""
    kind, engine = place
    require(engine)
    topology = shared_topologies.get((place, detection_ms))
    if topology is None:
        options = {option: detection_ms for option in (KINDS[kind].detection,) if option}
        topology = shared_topologies[place, detection_ms] = await KINDS[kind].launch(engine, **options)
        # It stays for other tests: the check for processes left behind knows these.
        shared_servers |= {f"{kind} {server.directory}": server for server in topology.everybody}
    yield topology
    try:
        await topology.reset()
    except Exception:  # this test broke it; the next one gets another
        for server in topology.everybody:
            del shared_servers[f"{kind} {server.directory}"]
        shared_topologies.pop((place, detection_ms)).destroy()


@pytest.fixture
def cluster(topology: Topology) -> ManyServers:
    assert isinstance(topology, ManyServers)
    return topology


@pytest.fixture
def sentinel(topology: Topology) -> Watched:
    assert isinstance(topology, Watched)
    return topology


@pytest.fixture
async def start_topology() -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Start one of this test's own, to leave it broken: ``await start_topology(ManyServers, replicas=2)``."""
    started: list[Topology] = []

    async def start(kind: type[Topology], engine: str = DEFAULT_ENGINE, **options: Any) -> Topology:
        require(engine)
        started.append(await kind.launch(engine, **options))
        return started[-1]

    yield start
    for topology in started:
        topology.destroy()


@pytest.fixture
async def start_proxies(topology: Topology) -> AsyncIterator[Callable[[], Awaitable[Proxies]]]:
    """``await start_proxies()``: one client's own way to ``topology``, to connect to by its ``url``."""
    started: list[Proxies] = []

    async def start() -> Proxies:
        started.append(await Proxies.start(topology.url, topology.everybody))
        return started[-1]

    yield start
    for proxies in started:
        await proxies.close()
