"""Log lines: no more than a screen of one kind in a second, and all in one form."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
import structlog

from bridge import logs
from bridge.logs import Sparing

TALK = """
import logging, threading, structlog
from bridge.logs import configure
configure(as_json=True, node="node-a")
structlog.get_logger().info("ours", n=1)
logging.getLogger("aiohttp.server").warning("of a library")
speaker = threading.Thread(target=lambda: structlog.get_logger().info("of a thread"))
speaker.start(); speaker.join()
for _ in range(100):
    try:
        raise RuntimeError("secret")
    except RuntimeError:
        structlog.get_logger().exception("again")
"""


def test_what_is_said_too_often_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    second = 1.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: second)
    sparing, told = Sparing(lines_per_s=2), []
    for event in ["often"] * 5 + ["seldom"]:
        try:
            told.append(sparing(None, "info", {"event": event}))
        except structlog.DropEvent:
            pass
    assert told == [{"event": "often"}, {"event": "often"}, {"event": "seldom"}]
    second = 2.0
    assert sparing(None, "info", {"event": "often"}) == {"event": "often", "left_out": 3}


async def test_every_line_is_json_and_names_the_node_whoever_says_it() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TALK, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    _, errors = await process.communicate()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["event"] for line in lines[:3]] == ["ours", "of a library", "of a thread"]
    assert {line["node"] for line in lines} == {"node-a"}
    assert all({"level", "timestamp"} <= line.keys() for line in lines)
    assert 3 < len(lines) < 100
