"""What services share as processes: the event loop, and the file that says where they serve."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from pathlib import Path

import orjson

from bridge.config import Settings, shown


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def host_name() -> str:
    """This machine's name, as a node may be called."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).lstrip(".-")[:63] or "node"


def write_json(path: Path, value: object, *, mode: int = 0o666) -> None:
    """Whole or not at all, as JSON; dataclasses too. ``mode`` is subject to the umask."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=mode, exist_ok=False)
    draft.write_bytes(orjson.dumps(value))
    draft.replace(path)


def print_settings(*several: Settings) -> None:
    """To standard output, as JSON."""
    told = {name: value for settings in several for name, value in shown(settings).items()}
    sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
