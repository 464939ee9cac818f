"""Commands that leave a trace: whatever is lost, done twice or out of order shows in a room's ledger.

Beside them commands that do what handlers must not: kill their process, hang, take long, raise.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from bridge.effects import Effects, Value
from bridge.envelope import Command
from bridge.registry import Registry
from tests.faults.pace import elapsed

LEDGER, LAST = "ledger", "last"  # state names of a room: a stream of what took effect, the last number
KEEP = 1_000_000

registry = Registry()
tell: list[Callable[[object], None]] = []  # the process that serves puts its event line here


@dataclass(frozen=True, slots=True)
class Dying:
    """A handler is about to kill its process."""

    by: str
    id: str


@registry.command("ledger.add", subject="room")
class Add(BaseModel):
    """Write a line: the number, and which one it found before it."""

    n: int


@registry.command("fault.die", subject="room")
class Die(BaseModel):
    """SIGKILL of the process that handles it."""


@registry.command("fault.hang", subject="room")
class Hang(BaseModel):
    """Never returns."""


@registry.command("fault.linger", subject="room")
class Linger(BaseModel):
    """Writes its line after that many seconds."""

    n: int
    seconds: float


@registry.command("fault.fail", subject="room")
class Fail(BaseModel):
    """Raises until that attempt, then writes its line."""

    n: int
    until: int


@registry.handles(Add)
async def add(command: Command[Add]) -> Effects:
    return await _line(command, command.payload.n)


@registry.handles(Die)
async def die(command: Command[Die]) -> None:
    for told in tell:
        told(Dying(str(os.getpid()), command.id))
    os.kill(os.getpid(), signal.SIGKILL)


@registry.handles(Hang)
async def hang(command: Command[Hang]) -> None:
    await asyncio.Event().wait()


@registry.handles(Linger)
async def linger(command: Command[Linger]) -> Effects:
    await elapsed(command.payload.seconds)
    return await _line(command, command.payload.n)


@registry.handles(Fail)
async def fail(command: Command[Fail]) -> Effects:
    if command.attempt < command.payload.until:
        raise ValueError(f"attempt {command.attempt}")
    return await _line(command, command.payload.n)


async def _line(command: Command[Add] | Command[Linger] | Command[Fail], n: int) -> Effects:
    before = await command.read(LAST)
    found = before if isinstance(before, str) else ""
    line: dict[str, Value] = {"id": command.id, "n": n, "before": found, "attempt": command.attempt}
    return Effects().set(LAST, n).xadd(LEDGER, line, KEEP).result(n=n)
