"""One node as a process: serves the ledger's commands, and writes every event as a line of JSON to its output.

``python -m tests.faults.node NAME``, with ``BRIDGE_*`` settings in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass

import orjson

from bridge.client import Bridge
from bridge.config import BridgeSettings, load
from bridge.errors import Unreachable
from bridge.telemetry import Telemetry
from tests.faults import ledger
from tests.faults.pace import elapsed


@dataclass(frozen=True, slots=True)
class Serving:
    """The process is up; ``pid`` is its own."""

    node: str
    pid: int


def tell(event: object) -> None:
    """One write, which a pipe takes whole; what is told before a SIGKILL is told."""
    os.write(1, orjson.dumps({"event": type(event).__name__, **asdict(event)}) + b"\n")  # type: ignore[call-overload]


async def serve(name: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    telemetry = Telemetry()
    telemetry.listen(tell, inline=True)
    ledger.tell.append(tell)
    settings = load(BridgeSettings)
    while not stopping.is_set():
        try:
            async with Bridge.connect(settings, registry=ledger.registry, telemetry=telemetry) as bridge:
                await _take_part(bridge, name, stopping)
                return
        except Unreachable:  # when it starts; a supervisor would start it again
            await elapsed(0.1)


async def _take_part(bridge: Bridge, name: str, stopping: asyncio.Event) -> None:
    tell(Serving(name, os.getpid()))
    serving = asyncio.create_task(bridge.serve(name, url=f"test://{name}"))
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(sys.argv[1]))
