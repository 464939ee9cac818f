"""Fixtures for all tests: servers, faults, events, and the check that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leftovers, postgres
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.servers import DEFAULT_ENGINE, ENGINES, Server, require, version
from tests.waiting import block_until, until

pytest_plugins = ["tests.figures", "tests.topologies.fixtures"]
CONFORMANCE = Path(__file__).parent / "conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bridge")
    group.addoption("--full", action="store_true", help="run fault suites with the full figures")
    group.addoption("--seed", type=int, default=None, help="seed of random schedules; printed in the header")
    group.addoption("--uvloop", action="store_true", help="run async tests on uvloop")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:  # workers get the controller's
        config.option.seed = random.randrange(1 << 32)
    leftovers.adopt_orphans()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts in the background so, and the services that tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    engines = ", ".join(f"{engine} = {version(engine)}" for engine in ENGINES)
    return [f"engines: {engines}", f"seed: {config.option.seed}, full figures: {config.option.full}"]


def pytest_asyncio_loop_factories(config: pytest.Config) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if config.option.uvloop:
        import uvloop  # noqa: PLC0415 - an extra

        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests in tests/conformance/ run on every engine, others on the bundled one."""
    if "engine" in metafunc.fixturenames and metafunc.definition.path.is_relative_to(CONFORMANCE):
        metafunc.parametrize("engine", ENGINES, indirect=True, scope="session")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """Name of the engine that ``server`` and ``own_server`` run."""
    name: str = getattr(request, "param", DEFAULT_ENGINE)
    require(name)
    return name


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[dict[str, Server]]:
    servers: dict[str, Server] = {}
    yield servers
    for server in servers.values():
        server.destroy()


@pytest.fixture
async def server(engine: str, shared_servers: dict[str, Server]) -> AsyncIterator[Server]:
    """A server without keys, shared with earlier tests: do not kill or configure it, see ``own_server``."""
    running = shared_servers.get(engine)
    if running is None:
        running = shared_servers[engine] = Server.launch(engine)
    yield running
    await running.close_clients()
    try:
        running.reset()
    except Exception:  # this test broke it; the next one gets another
        shared_servers.pop(engine).destroy()


@pytest.fixture
async def start_server() -> AsyncIterator[Callable[..., Server]]:
    """Start servers of this test's own: ``start_server("redis-7.0", tcp=True, maxmemory="20mb")``."""
    started: list[Server] = []

    def start(engine: str = DEFAULT_ENGINE, **options: Any) -> Server:
        require(engine)
        started.append(Server.launch(engine, **options))
        return started[-1]

    yield start
    for server in started:
        await server.close_clients()
        server.destroy()


@pytest.fixture
def own_server(engine: str, start_server: Callable[..., Server]) -> Server:
    """A server that this test may kill, stop and configure."""
    return start_server(engine)


@pytest.fixture
async def start_proxy() -> AsyncIterator[Callable[..., Any]]:
    """``await start_proxy(server)``: a proxy of a server, on a unix socket, or on a port with ``tcp=True``."""
    started: list[Proxy] = []

    async def start(server: Server, *, tcp: bool = False) -> Proxy:
        started.append(await Proxy.start(server.url, None if tcp else server.directory))
        return started[-1]

    yield start
    for proxy in started:
        await proxy.close()


@pytest.fixture
async def proxy(server: Server, start_proxy: Callable[..., Any]) -> Proxy:
    """A proxy in front of ``server``; connect to ``proxy.url``."""
    proxy: Proxy = await start_proxy(server)
    return proxy


@pytest.fixture
async def events() -> AsyncIterator[Recorder]:
    """Records what happens; hand ``events.telemetry`` to what is under test."""
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to run the full figures: ``rounds = 20 if full else 3``."""
    return bool(request.config.option.full)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """For ``random.Random(seed)``; the header prints it, ``--seed`` repeats it."""
    return int(request.config.option.seed)


@pytest.fixture(autouse=True)
def patient_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is slow for a moment refuses no command here; how long one may take has a test of its own."""
    monkeypatch.setattr("bridge.journal.COMMIT_S", 10.0)


@pytest.fixture(autouse=True)
def no_process_is_left(shared_servers: dict[str, Server]) -> Iterator[None]:
    before = set(leftovers.children())
    yield
    kept = before | {server.pid for server in shared_servers.values()}

    def left() -> dict[int, str]:
        found = leftovers.children().items()
        shared = kept | postgres.processes()  # which comes and goes with connections
        return {pid: command for pid, command in found if pid not in shared}

    try:  # those whose parent was killed may be about to follow
        block_until(lambda: not left(), timeout=20)
    except AssertionError:
        processes = left()
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        pytest.fail(f"child processes are left: {processes}")


@pytest.fixture(autouse=True)
def no_task_is_left(request: pytest.FixtureRequest) -> None:
    if asyncio.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_no_task_is_left")


@pytest.fixture
async def _no_task_is_left() -> AsyncIterator[None]:
    yield
    try:  # those that were told to end may take a few turns
        await until(lambda: not leftovers.tasks(), timeout=10)
    except AssertionError:
        pytest.fail(f"tasks are left: {leftovers.tasks()}")
