"""Commands that leave a trace, or do what handlers must not; a plugin of every process of a nemesis run."""

from __future__ import annotations

import os
import signal
import time

from pydantic import BaseModel, Field

from bridge.effects import Effects, Value
from bridge.envelope import Command
from bridge.registry import command, handles
from tests.faults.pace import elapsed

LEDGER, LAST = "ledger", "last"  # state names of a room: a stream of what took effect, the last number
KEEP = 1_000_000


@command("nemesis.add", subject="room")
class Add(BaseModel):
    """Write a line: the number, and which one it found before it."""

    n: int
    seconds: float = Field(0, ge=0, le=5)  # that the handler takes


@command("nemesis.fail", subject="room")
class Fail(BaseModel):
    """Raises, however often it is tried; once ``cured``, writes its line."""

    n: int
    cured: bool = False


@command("nemesis.die", subject="room")
class Die(BaseModel):
    """SIGKILL of the process that handles it."""


@handles(Add)
async def add(command: Command[Add]) -> Effects:
    if command.payload.seconds:
        await elapsed(command.payload.seconds)
    return await _line(command, command.payload.n)


@handles(Fail)
async def fail(command: Command[Fail]) -> Effects:
    if not command.payload.cured:
        raise ValueError(f"attempt {command.attempt}")
    return await _line(command, command.payload.n)


@handles(Die)
async def die(command: Command[Die]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _line(command: Command[Add] | Command[Fail], n: int) -> Effects:
    before = await command.read(LAST)
    found = before if isinstance(before, str) else ""
    # The server's clock may be set back; the node's is the driver's.
    line: dict[str, Value] = {"id": command.id, "n": n, "before": found, "at": f"{time.time():.3f}"}
    return Effects().set(LAST, n).xadd(LEDGER, line, KEEP).result(n=n)
