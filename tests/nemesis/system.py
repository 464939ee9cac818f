"""The installation under test: servers, chat nodes and a back office, each a process, on ports that stay theirs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from pathlib import Path

import orjson

from bridge.guard import guarded, needs_pipe
from tests.chatserver.client import SECRET
from tests.faults.pace import elapsed
from tests.journeys.installation import REPOSITORY, TOKENS, Service
from tests.nemesis.clock import Clock
from tests.nemesis.history import History, Sample
from tests.nemesis.places import Place
from tests.proxy import Proxy

NODES = ("node-a", "node-b", "node-c")
GUEST_NODE = "node-d"  # joins and leaves
BEHIND_PROXY = frozenset({"node-b", "backoffice"})
BACK_S = 0.3  # after which a supervisor starts a process again
SAMPLE_S, TICK_S = 1.0, 0.05
STEADY_PORTS = range(20_000, 32_000)
TRACED = 9  # last lines of a traceback
SETTINGS = {
    "BRIDGE_SHARDS": "16",
    "BRIDGE_MAX_ATTEMPTS": "3",
    "BRIDGE_HISTORY_LENGTH": "1000000",  # the checkers read all of it
    "BRIDGE_PLUGINS": "tests.nemesis.plugin",
}


class System:
    """Processes by name; those that end without being told to are started again."""

    def __init__(self, place: Place, history: History, clock: Clock) -> None:
        self.place, self.services = place, dict[str, Service]()
        self.proxies: list[Proxy] = []  # in front of the server, where there is one server only
        self._history, self._clock = history, clock
        names = (*NODES, GUEST_NODE, "backoffice")
        self._ports = dict(zip(names, _steady_ports(len(names)), strict=True))
        self._urls: dict[str, str] = {}
        self._away: set[str] = set()  # not to be started again
        self._all: list[Service] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._starting: set[asyncio.Task[None]] = set()

    @property
    def directory(self) -> Path:
        return self.place.servers[0].directory

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['backoffice']}"

    def node_urls(self) -> list[str]:
        """Where clients may go; a node that is down for a moment is among them."""
        names = [name for name in (*NODES, GUEST_NODE) if name in self.services and name not in self._away]
        return [f"ws://127.0.0.1:{self._ports[name]}/ws" for name in names]

    def running(self) -> list[str]:
        """Nodes that run now, by name."""
        return sorted(
            name for name, service in self.services.items() if name != "backoffice" and _code(service) is None
        )

    async def start(self) -> None:
        if self.place.kind == "standalone":
            for name in sorted(BEHIND_PROXY):
                proxy = await Proxy.start(self.place.url)
                self.proxies.append(proxy)
                self._urls[name] = proxy.url
        started = [await self._spawn(name) for name in (*NODES, "backoffice")]
        for service in started:
            await service.serves()
        self._tasks = [
            asyncio.create_task(self._supervise(), name="supervisor"),
            asyncio.create_task(self._sample(), name="memory"),
        ]

    async def join(self, name: str) -> Service:
        """Start a process, again and again while its server is away, and wait until it serves."""
        while True:
            service = await self._spawn(name)
            self._away.discard(name)
            try:
                await service.serves()
            except AssertionError:
                if _code(service) is None:
                    raise
                self._away.add(name)
            else:
                return service

    async def leave(self, name: str) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        await self.all_serve()
        self._away.add(name)
        service = self.services[name]
        try:
            return await service.stop()
        except AssertionError as stuck:
            self.send(name, signal.SIGABRT)  # PYTHONFAULTHANDLER=1 has it tell where it hangs
            await service.destroy()
            end = service.errors.read_text(errors="replace")[-3000:]
            self._history.complaints.append(f"{name} after SIGTERM: {stuck}; it said: {end}")
            return -signal.SIGKILL

    def send(self, name: str, number: signal.Signals) -> None:
        """A process that is gone already has nothing to lose."""
        with contextlib.suppress(ProcessLookupError, KeyError):
            self.services[name].send(number)

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        service = self.services[name]
        self.send(name, signal.SIGKILL)
        await service._process.wait()

    async def all_serve(self, timeout: float = 40) -> None:
        """Until every process that is not away is there, those started again included."""
        async with asyncio.timeout(timeout):
            while not all(
                _code(service) is None and service.where
                for name, service in self.services.items()
                if name not in self._away
            ):
                await elapsed(TICK_S)

    async def destroy(self) -> None:
        for task in (*self._tasks, *self._starting):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._starting, return_exceptions=True)
        for service in self._all:
            with contextlib.suppress(KeyError, ProcessLookupError):
                if _code(service) is None and service.where:
                    service.send(signal.SIGCONT)
            await service.destroy()
        for proxy in self.proxies:
            await proxy.close()

    def complaints(self) -> list[str]:
        """Lines of logs that no healthy process writes, whatever is broken around it."""
        found = ((service.name, _complaint(line)) for service in self._all for line in service.complaints())
        return [f"{name}: {complaint}" for name, complaint in found if complaint]

    async def _supervise(self) -> None:
        while True:
            for name, service in list(self.services.items()):
                if _code(service) is not None and name not in self._away:
                    await elapsed(BACK_S)
                    if self.services[name] is not service or name in self._away:
                        continue
                    self._starting.add(starting := asyncio.create_task(_serves(await self._spawn(name))))
                    starting.add_done_callback(self._starting.discard)
            await elapsed(TICK_S)

    async def _sample(self) -> None:
        while True:
            for name, service in list(self.services.items()):
                with contextlib.suppress(OSError, KeyError):
                    rss = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                    self._history.samples.append(Sample(self._clock.now(), name, service.pid, rss))
            await elapsed(SAMPLE_S)

    def environment(self, name: str) -> dict[str, str]:
        """Settings of one process."""
        settings = {**SETTINGS, "BRIDGE_REDIS_URL": self._urls.get(name, self.place.url)}
        if name == "backoffice":
            settings["BACKOFFICE_PORT"] = str(self._ports[name])
            settings["BACKOFFICE_API_TOKENS"] = ",".join(f"{r}:{r}:{token}" for r, token in TOKENS.items())
            settings["BACKOFFICE_DATABASE_URL"] = f"sqlite+aiosqlite:///{self.directory / 'backoffice.sqlite3'}"
            settings["BACKOFFICE_DATABASE_URL"] = f"sqlite+aiosqlite:///{self.directory / 'backoffice.sqlite3'}"
            settings["BRIDGE_JOURNAL"] = os.fspath(self.directory / "journal")
            return settings
        return settings | {
            "CHATSERVER_PORT": str(self._ports[name]),
            "CHATSERVER_NODE_NAME": name,
            "CHATSERVER_JWT_KEY": SECRET,
            "CHATSERVER_LOG_JSON": "true",
            "CHATSERVER_ORIGINS": "none",
            "CHATSERVER_DRAIN_SECONDS": "5",
        }

    async def _spawn(self, name: str) -> Service:
        stem = self.directory / f"{name}-{len(self._all)}"
        errors, ready = stem.with_suffix(".err"), stem.with_suffix(".ready")
        module = "backoffice" if name == "backoffice" else "chatserver"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *guarded([sys.executable, "-m", module, "--ready-file", os.fspath(ready)]),
                cwd=REPOSITORY,
                env={**clean, **self.environment(name)},
                stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        service = self.services[name] = Service(name, process, errors, ready)
        self._all.append(service)
        return service


def _code(service: Service) -> int | None:
    return service._process.returncode


def _steady_ports(count: int) -> list[int]:
    """Free ones that no outgoing connection takes while their service is down: below those that systems give out."""
    found: list[int] = []
    for port in random.sample(STEADY_PORTS, len(STEADY_PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            break
    return found


async def _serves(service: Service) -> None:
    with contextlib.suppress(AssertionError):  # it ends when the server is away, and is started again
        await service.serves()


def _complaint(line: str) -> str:
    """What is wrong, with the end of its traceback. Findings and alarms are none: things *are* broken here."""
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line[:300]
    if "severity" in told or told.get("event") == "alarm":
        return ""
    traceback = [part for part in told.pop("exception", "").splitlines() if part.strip()]
    return f"{orjson.dumps(told).decode()[:300]} {' / '.join(part.strip() for part in traceback[-TRACED:])}".strip()
