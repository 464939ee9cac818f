"""One service of the demo as a child process that ends together with this one, however this one ends (see `guard`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from bridge.errors import BridgeError
from bridge.guard import guarded, needs_pipe

START_S = 30.0  # for a service to write its ready file
STOP_S = 8.0  # from SIGTERM to SIGKILL
_LOOK_S = 0.02  # between two looks for a ready file
_LOG_LINES = 15  # shown of a service that did not come up


class NotServing(BridgeError):
    """A service did not come up; the text has the end of its log."""


class Child:
    """A service. ``directory`` is its working directory: no ``.env`` but one there is read. Its output goes to
    ``<name>.log`` in it; it says where it serves in a ready file."""

    def __init__(self, name: str, module: str, directory: Path, environment: Mapping[str, str], port: int = 0) -> None:
        self.name = name
        self.told: dict[str, Any] = {}  # what its ready file said
        self._module, self._environment, self._directory = module, environment, directory
        self._wanted_port = self._port = port
        self._log, self._ready = directory / f"{name}.log", directory / f"{name}.ready"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return int(self.told["pid"])

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, on the port that it had before, and wait until it serves. Raises NotServing."""
        self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *guarded([sys.executable, "-m", self._module, "--ready-file", os.fspath(self._ready)]),
                env={**self._environment, f"{self._module.upper()}_PORT": str(self._port)},
                cwd=self._directory,
                stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in a terminal goes to the whole group; the order in which things end is decided here.
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_S):
                while not self._ready.exists() and self.runs:  # noqa: ASYNC110 - files have no events here
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            self._process.kill()
        if not self._ready.exists():
            self._port = self._wanted_port
            raise NotServing(self._complaint(await self._process.wait()))
        self.told = orjson.loads(self._ready.read_bytes())
        self._port = urlsplit(self.told["url"]).port or self._wanted_port

    async def wait(self) -> int:
        """Until it has ended; its exit code, negative for a signal."""
        assert self._process is not None, "started first"
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough. Nothing happens if it does not run."""
        if self._process is None or not self.runs:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
            os.kill(self._process.pid, signal.SIGCONT)  # somebody may have stopped it
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _complaint(self, code: int) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n  ".join([f"{self.name} did not come up ({describe(code)}); the end of its log:", *lines])


def describe(code: int) -> str:
    """An exit code, in words."""
    return signal.Signals(-code).name if code < 0 else f"status {code}"
