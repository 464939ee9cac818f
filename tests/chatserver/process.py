"""A node as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chatserver.client import SECRET
from tests.servers import Server


class Process:
    """``python -m chatserver`` with these settings."""

    def __init__(self, directory: Path, *arguments: str, **settings: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "CHATSERVER_"))}
        self._errors = directory / f"stderr-{id(self):x}"
        with self._errors.open("wb") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "chatserver", *arguments],
                env={**inherited, "PYTHONPATH": str(Path.cwd()), **settings},
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    async def ready(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = await asyncio.to_thread(self.popen.stdout.readline)
        assert line, self.errors
        return dict(json.loads(line))

    async def ended(self) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.popen.wait), 60)

    @property
    def errors(self) -> str:
        return self._errors.read_text()


Spawn = Callable[..., Process]


def settings(server: Server, **more: str) -> dict[str, str]:
    return {
        "BRIDGE_REDIS_URL": server.url,
        "BRIDGE_SHARDS": "4",
        "CHATSERVER_JWT_KEY": SECRET,
        "CHATSERVER_ORIGINS": "none",
        "CHATSERVER_PORT": "0",
        "CHATSERVER_NODE_NAME": "node-p",
        **more,
    }
