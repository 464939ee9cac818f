"""``chatbridge demo``: a server, chat nodes, a back office and bots on this machine, and nothing of it left behind.

Server, back office and nodes are processes of their own that end together with this one,
however this one ends. On Linux that holds for children of the main thread, so everything
is started there. The bots live in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import string
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bridge.bots import CAST, ROOMS, Bot
from bridge.child import Child, NotServing, describe
from bridge.embedded import EmbeddedServer
from bridge.errors import BridgeError, Misconfigured
from bridge.process import write_json
from bridge.rest import RestApi

HOST = "127.0.0.1"
ADMIN = "admin"
CALLER = "demo"  # whose token the API token is
DRAIN_S = 4.0  # of a node; a child is killed after 8
OPEN_ROOMS_S = 15.0
_AGAIN_FIRST_S, _AGAIN_MOST_S = 0.2, 5.0  # between two starts of a service that does not come up

# Set for every service by the demo, or meant for the command line: what the shell has of these is not handed on.
_NOT_INHERITED = ("BRIDGE_REDIS_URL", "BRIDGE_JOURNAL", "BACKOFFICE_URL", "BACKOFFICE_TOKEN",
                  "BACKOFFICE_DEMO_CHAT_KEY", "CHATSERVER_JWT_ISSUER", "CHATSERVER_JWT_AUDIENCE",
                  "CHATSERVER_PUBLIC_URL")  # fmt: skip
_PREFIXES = ("BRIDGE_", "BACKOFFICE_", "CHATSERVER_")
_WORDS = "CHATSERVER_WORDS_FILE"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    nodes: int = 3
    port: int = 8080  # of the back office; 0 = a free one
    data: Path | None = None  # None: a temporary folder, removed at exit
    bots: bool = True
    restart: bool = False  # killed nodes and back office are started again
    ready_file: Path | None = None


class Demo:
    """Everything that serves, in one place. ``run`` is its whole life."""

    def __init__(self, options: Options, directory: Path) -> None:
        self._options, self._directory = options, directory
        self._token = secrets.token_urlsafe(24)
        self._chat_key = secrets.token_urlsafe(48)
        self._password = _kept_secret(directory / "admin-password")  # the database keeps the first one's hash
        self._server: EmbeddedServer
        self._backoffice: Child
        self._nodes: list[Child] = []
        self._services: list[Child] = []  # back office and nodes

    async def run(self) -> None:
        """Serve until cancelled; everything has ended then. Raises NotServing and what the server raises."""
        say("server …")
        self._server = await EmbeddedServer.start(self._directory / "server")
        try:
            await self._start()
            async with asyncio.TaskGroup() as background:
                background.create_task(self._watch_server())
                for service in self._services:
                    background.create_task(self._watch(service))
                if self._options.bots:
                    background.create_task(self._chat())
                self._write_ready()
                self._tell()
        finally:
            # Nodes settle what they began and hand over before the server goes.
            await asyncio.gather(*(service.stop() for service in self._services))
            await self._server.stop()

    async def _start(self) -> None:
        logs = self._directory / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        shared = _inherited(Path.cwd())
        shared["BRIDGE_REDIS_URL"] = self._server.url
        journal = {"BRIDGE_JOURNAL": os.fspath(self._directory / "journal")}
        office = {"HOST": HOST, "API_TOKENS": f"{CALLER}:admin:{self._token}", "DEMO_CHAT_KEY": self._chat_key}
        office["DATABASE_URL"] = f"sqlite+aiosqlite:///{self._directory / 'backoffice.sqlite3'}"
        office["ADMIN_PASSWORD"] = self._password
        node = {"HOST": HOST, "JWT_KEY": self._chat_key, "DRAIN_SECONDS": f"{DRAIN_S:g}"}
        node["DEMO_PAGE"] = "true"
        node["ORIGINS"] = os.environ.get("CHATSERVER_ORIGINS", "*")  # a page of any address, if it has a token
        self._backoffice = Child(
            "backoffice", "backoffice", logs, shared | journal | _prefixed("BACKOFFICE", office), self._options.port
        )
        self._nodes = [
            Child(name, "chatserver", logs, shared | _prefixed("CHATSERVER", node | {"NODE_NAME": name}))
            for name in (f"node-{letter}" for letter in string.ascii_lowercase[: self._options.nodes])
        ]
        self._services = [self._backoffice, *self._nodes]
        say(f"back office and {len(self._nodes)} chat nodes …")
        async with _first_error_only(), asyncio.TaskGroup() as starting:
            for service in self._services:
                starting.create_task(service.start())
        say("rooms …")
        async with _first_error_only(), self._api() as api, asyncio.TaskGroup() as opening:
            for room, title in ROOMS.items():
                opening.create_task(_open(api, room, title))

    def _api(self) -> AbstractAsyncContextManager[RestApi]:
        return RestApi.connect(self._backoffice.told["url"], self._token)

    async def _chat(self) -> None:
        async with self._api() as api, asyncio.TaskGroup() as chatting:
            for name in CAST:
                chatting.create_task(Bot(name, self._node_urls, partial(_chat_token, api, name), say).run())

    def _node_urls(self) -> list[str]:
        """Of nodes that run; of all where none does."""
        return [node.told["url"] for node in self._nodes if node.runs] or [node.told["url"] for node in self._nodes]

    async def _watch(self, service: Child) -> None:
        while True:
            code = describe(await service.wait())
            if not self._options.restart:
                return say(f"{service.name} ended ({code}) and stays so; with --restart it would be started again")
            say(f"{service.name} ended ({code}); it is started again")
            await _again(service.start)
            self._write_ready()
            say(f"{service.name} serves again, process {service.pid}")

    async def _watch_server(self) -> None:
        while True:
            code = describe(await self._server.wait())
            say(f"the server ended ({code}); it is started again with its data")
            await _again(self._server.restart)
            self._write_ready()
            say(f"the server serves again, process {self._server.pid}")

    def _write_ready(self) -> None:
        """For its owner only: it has the API token. Written again when a process changes."""
        path = self._options.ready_file
        if path is None:
            return
        pids = {"demo": os.getpid(), "backoffice": self._backoffice.pid, "redis": self._server.pid}
        ready = {
            "backoffice": self._backoffice.told["url"],
            "nodes": [node.told for node in self._nodes],
            "redis_url": self._server.url,
            "admin": {"user": ADMIN, "password": self._password},
            "api_token": self._token,
            "pids": pids | {node.name: node.pid for node in self._nodes},
            "rooms": list(ROOMS),
        }
        write_json(path, ready, mode=0o600)

    def _tell(self) -> None:
        office, first = self._backoffice.told["url"], self._nodes[0]
        nodes = "".join(f"  {node.name:<12} {node.told['url']}  process {node.pid}\n" for node in self._nodes)
        text = f"""
The demo serves.

  chat page    {_page_of(first)}
  back office  {office}
  log in as    {ADMIN}, password {self._password}
  API token    {self._token}
  rooms        {", ".join(ROOMS)}{f" (bots: {', '.join(CAST)})" if self._options.bots else ""}
  Redis        {self._server.url}
{nodes}
In another terminal:

  export BACKOFFICE_URL={office} BACKOFFICE_TOKEN={self._token}
  export BRIDGE_REDIS_URL={self._server.url}
  CHATBRIDGE publish member.mute room:lobby '{{"user": "ada", "seconds": 60}}' --wait 5
  CHATBRIDGE nodes
  kill -9 {first.pid}   # {first.name}: the others take over what it held

Ctrl-C stops everything."""
        say(text.replace("CHATBRIDGE", _own_command()))


def _page_of(node: Child) -> str:
    """Where browsers chat: the node's own page, at its root."""
    return str(node.told["health_url"]).removesuffix("healthz")


async def _open(api: RestApi, room: str, title: str) -> None:
    command = {"type": "room.open", "subject": f"room:{room}", "payload": {"title": title}}
    answer = await api.call("POST", "/commands", command, query={"wait": int(OPEN_ROOMS_S)}, wait_s=OPEN_ROOMS_S)
    if answer["state"] != "done":
        raise NotServing(f"room {room} did not open within {OPEN_ROOMS_S:g} s: it is {answer['state']}")


async def _chat_token(api: RestApi, user: str) -> str:
    answer = await api.call("GET", "/chat-token", query={"user": user})
    return str(answer["token"])


async def _again(start: Callable[[], Awaitable[None]]) -> None:
    """Start something until it stays up."""
    pause = _AGAIN_FIRST_S
    while True:
        try:
            return await start()
        except BridgeError as error:
            say(str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, _AGAIN_MOST_S)


@contextlib.asynccontextmanager
async def _first_error_only() -> AsyncIterator[None]:
    """One line for whoever reads it; the others are mostly its consequences."""
    try:
        yield
    except* BridgeError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _inherited(here: Path) -> dict[str, str]:
    """The shell's variables, for services that run elsewhere: modules and files are found from ``here`` still."""
    shared = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    for name, value in shared.items():
        if value.startswith("file:") and name.startswith(_PREFIXES):
            shared[name] = f"file:{here / value.removeprefix('file:')}"
    if words := shared.get(_WORDS):
        shared[_WORDS] = words if words.startswith("file:") else os.fspath(here / words)
    shared["PYTHONPATH"] = os.pathsep.join(filter(None, (os.fspath(here), shared.get("PYTHONPATH"))))  # for plugins
    return shared


def _kept_secret(path: Path) -> str:
    """A random word that stays the same as long as the folder does."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(12))
    return path.read_text()


def _prefixed(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}_{name}": value for name, value in settings.items()}


def _own_command() -> str:
    """How to call ``chatbridge`` from a shell that knows nothing of our virtual environment."""
    if shutil.which("chatbridge"):
        return "chatbridge"
    installed = Path(sys.executable).parent / "chatbridge"
    with contextlib.suppress(ValueError):
        return os.fspath(installed.relative_to(Path.cwd()))
    return os.fspath(installed)


def say(line: str) -> None:
    """A line of progress; nobody may be there to read it."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


async def serve(options: Options) -> None:
    """Run the demo until SIGINT, SIGTERM or SIGHUP; a second one ends it at once, and the kernel its children."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        say("stopping …")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    if options.ready_file is not None:
        if not options.ready_file.parent.is_dir():
            raise Misconfigured(f"there is no folder {options.ready_file.parent} for the ready file; make it first")
        options.ready_file.unlink(missing_ok=True)
    with _directory(options.data) as directory:
        life = asyncio.create_task(Demo(options, directory).run(), name="demo")
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((life, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life


@contextlib.contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        data = data.absolute()
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(f"cannot keep data in {data}: {error.strerror}; name another folder") from None
        yield data
        return
    directory = Path(tempfile.mkdtemp(prefix="chatbridge-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
