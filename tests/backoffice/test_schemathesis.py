"""Schemathesis against a running back office: what its document promises, for good requests and for bad ones."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bridge.client import Bridge
from tests.backoffice.service import TOKENS, Api

HOOKS = "tests.backoffice.schemathesis_hooks"
QUICK = ("--phases", "coverage,fuzzing", "--max-examples", "4", "--generation-deterministic")
QUICK_TYPES = "member.mute message.delete notice.post room.open user.warn"
FULL = ("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "100", "--generation-database", "none")
# A stream of events goes on: what came within a moment is looked at. On a busy machine nothing may come in that time.
CONFIG = """
request-timeout = 35
continue-on-failure = true
[[operations]]
include-path = "/live"
request-timeout = 0.5
request-retries = 4
"""


async def test_every_answer_is_as_the_document_says(
    api: Api, node: Bridge, full: bool, seed: int, tmp_path: Path
) -> None:
    for room in ("lobby", "attic"):
        await api.issue("room.open", f"room:{room}", {}, wait=10)
        await api.issue("member.mute", f"room:{room}", {"user": "u7"}, wait=10)
    for number in range(3):
        await api.issue("notice.post", "room:lobby", {"text": f"notice {number}"}, wait=10)
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", config, "--no-color",
        "run", f"{api.url}/api/v1/openapi.json", "--header", f"Authorization: Bearer {TOKENS['admin']}",
        *((*FULL, "--seed", str(seed)) if full else QUICK),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "SCHEMATHESIS_HOOKS": HOOKS,
             "BACKOFFICE_URL": api.url, "BACKOFFICE_TOKEN": TOKENS["admin"],
             "COMMAND_TYPES": "" if full else QUICK_TYPES},
    )  # fmt: skip
    told, _ = await run.communicate()
    assert run.returncode == 0, told.decode()
    assert (await api.get("//healthz")).status == 200
