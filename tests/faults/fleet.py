"""Nodes as processes, whose events arrive in the test's recorder."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from bridge import telemetry
from bridge.guard import guarded, needs_pipe
from bridge.telemetry import Joined
from tests.faults import ledger, node
from tests.recorder import Recorder
from tests.waiting import ended

REPOSITORY = Path(__file__).parents[2]
EVENTS = {
    event.__name__: event
    for module in (telemetry, ledger, node)
    for event in vars(module).values()
    if isinstance(event, type) and hasattr(event, "__dataclass_fields__")
}


@dataclass(frozen=True, slots=True)
class Exited:
    """A node's process ended; ``code`` is negative for a signal."""

    node: str
    pid: int
    code: int


class Member:
    """One node's process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: Path, events: Recorder) -> None:
        self.name, self.errors = name, errors
        self.pid = 0  # its own, even below a watchdog
        self._process, self._events = process, events
        self._reading = asyncio.create_task(self._read(), name=f"events-{name}")

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP: it holds its connections and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: it hands over and leaves."""
        os.kill(self.pid, signal.SIGTERM)

    def rss(self) -> int:
        """Resident memory, bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def complaints(self) -> list[str]:
        """What it wrote to its error output: a healthy one is silent, whatever happens to others."""
        return self.errors.read_text(errors="replace").splitlines()

    async def ended(self) -> int:
        await ended(self.pid, 30)
        await self._reading
        return await self._process.wait()

    async def destroy(self) -> None:
        if self.running:
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._reading
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = orjson.loads(line)
            event = _event(told)
            if isinstance(event, node.Serving):
                self.pid = event.pid
            self._events.telemetry.emit(event)
        code = await self._process.wait()
        self._events.telemetry.emit(Exited(self.name, self.pid, code))


class Fleet:
    """The nodes of one test on one server."""

    def __init__(self, url: str, directory: Path, events: Recorder, **settings: object) -> None:
        self.url, self.events = url, events
        self.members: dict[str, Member] = {}  # the last process of each name
        self._directory = directory
        self._settings = {f"BRIDGE_{name.upper()}": str(value) for name, value in settings.items()}
        self._all: list[Member] = []

    async def start(self, *names: str, url: str | None = None) -> list[Member]:
        """Start nodes and wait until they take part; a name again replaces its ended process."""
        members = [await self.spawn(name, url=url) for name in names]
        for member in members:
            await self.serving(member)
        return members

    async def serving(self, member: Member) -> None:
        """Until this process takes part."""
        await self.events.wait_for(node.Serving, node=member.name, pid=lambda pid: pid == member.pid, timeout=60)
        count = sum(each.name == member.name for each in self._all)
        await self.events.wait_for_many(count, Joined, node=member.name, timeout=40)

    async def spawn(self, name: str, *, url: str | None = None) -> Member:
        """Only start the process."""
        errors = self._directory / f"{name}-{len(self._all)}.err"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BRIDGE_")}
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *guarded([sys.executable, "-m", "tests.faults.node", name]),
                cwd=REPOSITORY,
                env={**environment, **self._settings, "BRIDGE_REDIS_URL": url or self.url},
                stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        member = self.members[name] = Member(name, process, errors, self.events)
        self._all.append(member)
        return member

    @property
    def running(self) -> list[Member]:
        return [member for member in self.members.values() if member.running]

    def complaints(self) -> list[str]:
        """Error output of all processes there ever were."""
        return [f"{member.name}: {line}" for member in self._all for line in member.complaints()]

    async def destroy(self) -> None:
        for member in self._all:
            await member.destroy()


def _event(told: dict[str, Any]) -> object:
    kind = EVENTS[told.pop("event")]
    return kind(**{f.name: told[f.name] for f in fields(kind)})
