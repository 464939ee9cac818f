"""One installation: a server, chat nodes and a back office, each a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from bridge.guard import guarded, needs_pipe
from bridge.rest import RestApi
from tests.chatserver.client import SECRET, ChatClient, signed_in
from tests.servers import Server
from tests.topologies import Topology
from tests.waiting import answered, ended, until

REPOSITORY = Path(__file__).parents[2]
TOKENS = {role: f"journey-{role}-0123456789" for role in ("viewer", "moderator", "operator", "admin")}
NODES = ("node-a", "node-b", "node-c")
START_S = 40  # the machine may be busy with other tests
LATE = ("no_nodes", "no_holder", "nothing_handled", "oldest_age")  # alarms that a machine which stalls may raise


class Service:
    """One process, and what its ready file says."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: Path, ready_file: Path) -> None:
        self.name, self.errors = name, errors
        self.where: dict[str, Any] = {}
        self._process, self._ready_file = process, ready_file

    @property
    def pid(self) -> int:
        """Its own, even below a watchdog."""
        return int(self.where["pid"])

    @property
    def url(self) -> str:
        return str(self.where["url"])

    async def serves(self) -> None:
        await until(self._said, START_S, what=lambda: f"{self.name} serves; it said: {self.errors.read_text()}")
        self.where = orjson.loads(self._ready_file.read_bytes())

    def _said(self) -> bool:
        assert self._process.returncode is None, f"{self.name} ended: {self.errors.read_text()}"
        return self._ready_file.exists()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        self.send(number)
        await ended(self.pid, 30)
        return await self._process.wait()

    async def destroy(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    def complaints(self) -> list[str]:
        """Lines of its log that no healthy process writes, whatever happens to others."""
        bad = re.compile(r"Traceback|never retrieved|never awaited|\"level\": ?\"(error|critical)\"|^ERROR")
        return [line for line in self.errors.read_text(errors="replace").splitlines() if bad.search(line)]

    def warnings(self) -> int:
        """How many lines of its log tell of something wrong."""
        lines = self.errors.read_text(errors="replace").splitlines()
        return sum(
            bool(re.search(r"\"level\": ?\"(warning|error|critical)\"|^(WARNING|ERROR)", line)) for line in lines
        )


class Installation:
    """See the module. ``api`` is an operator's."""

    def __init__(self, server: Server | Topology, **settings: object) -> None:
        self.server = server
        self.database = server.directory / "backoffice.sqlite3"
        self.redis_urls: dict[str, str] = {}  # of nodes that reach the server by another way
        self.nodes: dict[str, Service] = {}
        self.backoffice: Service
        self.api: RestApi
        self.expected = list(LATE)  # parts of complaints; a test adds what it provokes
        self._settings = {f"BRIDGE_{name.upper()}": str(value) for name, value in settings.items()}
        self._all: list[Service] = []
        self._stack = AsyncExitStack()
        self._calls = AsyncExitStack()

    async def start(self, *names: str) -> None:
        """Nodes and the back office."""
        services = [await self._spawn_node(name) for name in names or NODES]
        self.backoffice = await self._spawn_backoffice()
        for service in (*services, self.backoffice):
            await service.serves()
        await self._call_backoffice()
        await until(self._all_known, START_S, what="the back office knows all nodes")

    async def start_node(self, name: str) -> Service:
        node = await self._spawn_node(name)
        await node.serves()
        return node

    async def start_backoffice(self) -> None:
        """Alone, or again after it was killed, with the records and the journal that it had."""
        self.backoffice = await self._spawn_backoffice()
        await self.backoffice.serves()
        await self._call_backoffice()

    async def restart(self) -> None:
        """Every process, the server too."""
        await self._clients_gone()
        assert [await service.stop() for service in (*self.nodes.values(), self.backoffice)] == [0] * (
            len(self.nodes) + 1
        )
        assert isinstance(self.server, Server)
        await self.server.terminate()
        await self.server.restart()
        await self.start(*self.nodes)

    async def client(self, node: str, user: str = "u1", *rooms: str) -> ChatClient:
        """A websocket that stays until the next restart or the end."""
        return await self._stack.enter_async_context(signed_in(self.nodes[node].url, user, *rooms))

    async def clients(self, user: str, *rooms: str) -> list[ChatClient]:
        """One on every node."""
        return [await self.client(node, user, *rooms) for node in self.nodes]

    async def operate(self, type: str, subject: str, **payload: Any) -> dict[str, Any]:
        """Issue a command and wait for its end."""
        body = {"type": type, "subject": subject, "payload": payload}
        key = {"Idempotency-Key": token_hex(8)}
        ask = partial(self.api.call, "POST", "/commands", body, query={"wait": 20}, headers=key, wait_s=20)
        answer: dict[str, Any] = await answered(ask, 30)
        return answer

    async def read(self, path: str) -> dict[str, Any]:
        """What the API tells."""
        found: dict[str, Any] = await answered(lambda: self.api.call("GET", path), 30)
        return found

    async def done(self, type: str, subject: str, **payload: Any) -> dict[str, Any]:
        outcome = await self.operate(type, subject, **payload)
        assert outcome["state"] == "done", outcome
        return outcome

    async def destroy(self) -> None:
        await self._clients_gone()
        await self._calls.aclose()
        for service in self._all:
            await service.destroy()

    def complaints(self) -> list[str]:
        """Of all services, but for what a test has put into ``expected``."""
        lines = [f"{service.name}: {line}" for service in self._all for line in service.complaints()]
        return [line for line in lines if not any(text in line for text in self.expected)]

    async def _clients_gone(self) -> None:
        await self._stack.aclose()

    async def _all_known(self) -> bool:
        items = (await self.read("/nodes"))["items"]
        return {item["name"] for item in items if item["state"] == "live"} >= set(self.nodes)

    async def _call_backoffice(self) -> None:
        await self._calls.aclose()
        self.api = await self._calls.enter_async_context(RestApi.connect(self.backoffice.url, TOKENS["admin"]))

    async def _spawn_backoffice(self) -> Service:
        return await self._spawn(
            "backoffice", "backoffice",
            BACKOFFICE_PORT="0",
            BRIDGE_JOURNAL=str(self.server.directory / "journal"),
            BACKOFFICE_DATABASE_URL=f"sqlite+aiosqlite:///{self.database}",
            BACKOFFICE_API_TOKENS=",".join(f"{role}:{role}:{token}" for role, token in TOKENS.items()),
        )  # fmt: skip

    async def _spawn_node(self, name: str) -> Service:
        node = await self._spawn(
            name, "chatserver",
            CHATSERVER_PORT="0", CHATSERVER_NODE_NAME=name, CHATSERVER_JWT_KEY=SECRET, CHATSERVER_LOG_JSON="true",
            CHATSERVER_MESSAGES_PER_S="1000", CHATSERVER_ORIGINS="none",
            BRIDGE_REDIS_URL=self.redis_urls.get(name, self.server.url),
        )  # fmt: skip
        self.nodes[name] = node
        return node

    async def _spawn(self, name: str, module: str, **environment: str) -> Service:
        stem = self.server.directory / f"{name}-{len(self._all)}"
        errors, ready_file = stem.with_suffix(".err"), stem.with_suffix(".ready")
        ready_file.unlink(missing_ok=True)  # an earlier installation on the same server had that name
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *guarded([sys.executable, "-m", module, "--ready-file", os.fspath(ready_file)]),
                cwd=REPOSITORY,
                env={**clean, "BRIDGE_REDIS_URL": self.server.url, **self._settings, **environment},
                stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        self._all.append(service := Service(name, process, errors, ready_file))
        return service
