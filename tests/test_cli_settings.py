"""``chatbridge config`` and ``chatbridge tail``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from bridge.client import Bridge
from bridge.config import BridgeSettings
from tests.backoffice.conftest import serving
from tests.backoffice.service import settings
from tests.recorder import Recorder
from tests.servers import Server

WELL = {
    "BRIDGE_REDIS_URL": "redis://:secret@127.0.0.1:1",
    "CHATSERVER_JWT_KEY": "s3cret" * 6,
    "CHATSERVER_ORIGINS": "none",
}


async def chatbridge(directory: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Exit status, output and error output."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.cli", *arguments, cwd=directory,
        env={**inherited, "PYTHONPATH": str(Path.cwd()), **variables},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    return process.returncode or 0, out.decode(), errors.decode()


async def test_settings_are_shown_and_secrets_are_not(tmp_path: Path) -> None:
    status, out, errors = await chatbridge(tmp_path, "config", "show", "--json", **WELL)
    assert (status, errors) == (0, "")
    told = json.loads(out)
    assert told["backoffice"]["BACKOFFICE_PORT"] == 8080
    assert told["chatserver"]["BRIDGE_REDIS_URL"] == "****"
    assert "s3cret" not in out


async def test_what_can_be_shown_is_and_the_rest_says_why(tmp_path: Path) -> None:
    node = {name: value for name, value in WELL.items() if not name.startswith("CHATSERVER_")}
    status, out, errors = await chatbridge(tmp_path, "config", "show", "--json", **node)
    assert (status, list(json.loads(out)), len(errors.splitlines())) == (0, ["backoffice"], 1)
    assert errors.startswith("chatbridge: chatserver: ")
    assert (await chatbridge(tmp_path, "config", "show", "backoffice", "chatserver", **node))[0] == 2
    status, out, errors = await chatbridge(tmp_path, "config", "show", "--json")
    assert (status, json.loads(out), len(errors.splitlines())) == (2, {}, 2)


async def test_settings_that_can_be_used_are_well(tmp_path: Path) -> None:
    assert await chatbridge(tmp_path, "config", "check", **WELL) == (0, "backoffice: well\nchatserver: well\n", "")


async def test_settings_that_cannot_be_used_are_told_with_the_remedy(tmp_path: Path) -> None:
    status, _, errors = await chatbridge(tmp_path, "config", "check", "chatserver", **WELL, CHATSERVER_COLOUR="red")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "unknown setting CHATSERVER_COLOUR" in errors


async def test_what_ends_is_told(server: Server, events: Recorder, tmp_path: Path) -> None:
    config: BridgeSettings = settings(server.url)
    environment = {"BRIDGE_REDIS_URL": server.url, "BRIDGE_SHARDS": str(config.shards)}
    async with serving(config, events), Bridge.connect(config) as bridge:
        for room in ("r1", "r2"):
            receipt = await bridge.publish("room.open", f"room:{room}", {}, by="test")
            await bridge.outcome(receipt.id, wait=10)
        options = ("--all", "--count", "2")
        status, out, _ = await chatbridge(tmp_path, "tail", *options, "--json", **environment)
        told = [json.loads(line) for line in out.splitlines()]
        assert (status, [each["subject"] for each in told]) == (0, ["room:r1", "room:r2"])
        _, out, _ = await chatbridge(tmp_path, "tail", "--all", "--count", "1", "--subject", "room:r2", **environment)
        assert f"{receipt.id}  room.open room:r2: done on node-a\n" in out
