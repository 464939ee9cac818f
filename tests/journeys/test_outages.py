"""Processes die while operators and users go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest

from bridge.rest import Refused
from tests.figures import Figures, spread
from tests.journeys.installation import Installation
from tests.waiting import answered, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]
MAX_WARNINGS_PER_S = 20


async def test_commands_are_done_although_a_node_is_killed(chat: Installation, figures: Figures) -> None:
    chat.nodes["node-b"].send(signal.SIGKILL)

    async def mute(room: str) -> float:
        began = time.monotonic()
        await chat.done("member.mute", f"room:{room}", user="u1", seconds=600)
        return time.monotonic() - began

    waits = await asyncio.gather(*(mute(room) for room in ("lobby", *(f"r{i}" for i in range(59)))))
    figures.report("60 mutes by the API as a node is killed", wait_s=spread(waits))
    assert max(waits) < 15
    survivors = [await chat.client(name, "u1", "lobby") for name in ("node-a", "node-c")]
    assert [(await client.say("lobby", "hello"))["code"] for client in survivors] == ["muted"] * 2


async def test_a_node_that_leaves_tells_its_clients_to_come_back(chat: Installation) -> None:
    client = await chat.client("node-b", "u1", "lobby")
    leaving = asyncio.create_task(chat.nodes["node-b"].stop())
    assert (await client.push("reconnect"))["after_ms"] >= 0
    assert await client.close_code() == 1012
    assert await leaving == 0
    assert (await chat.operate("member.mute", "room:lobby", user="u1"))["state"] == "done"


async def test_after_flushall_everything_works_again_and_the_logs_stay_quiet(
    chat: Installation, figures: Figures
) -> None:
    chat.expected.append("Redis is not what it was")  # the journal of what was emptied is put aside, which is an alarm
    flushed = asyncio.Event()
    outcomes: Counter[str] = Counter()

    async def post(room: int) -> None:
        """Before, while and after; the last one, sent after it, has to end."""
        over = False
        while not over:
            over = flushed.is_set()
            try:
                state = (await chat.operate("member.mute", f"room:r{room}", user="u1"))["state"]
            except Refused as refused:  # it was accepted, and then there was no such command
                state = refused.code
            outcomes[state] += 1
            assert not over or state == "done"

    async with asyncio.TaskGroup() as load:
        for room in range(20):
            load.create_task(post(room))
        await until(lambda: outcomes["done"] > 100)
        began = time.monotonic()
        before = {name: node.warnings() for name, node in chat.nodes.items()}
        await chat.server.client().flushall()
        flushed.set()
    took = time.monotonic() - began
    await chat.done("room.open", "room:lobby", title="Lobby")
    for each in await chat.clients("u1", "lobby"):
        assert (await each.say("lobby", "hello"))["type"] == "ok"
    seconds = time.monotonic() - began
    warnings = {name: node.warnings() - before[name] for name, node in chat.nodes.items()}
    figures.report(
        "FLUSHALL under load by the API", works_after_s=round(took, 3), warnings=warnings, ended=dict(outcomes)
    )
    assert max(warnings.values()) <= MAX_WARNINGS_PER_S * max(1.0, seconds)


@pytest.mark.parametrize("settings", [{"shards": 1, "backlog_limit": 5, "handler_seconds": 60}])
async def test_over_the_limit_the_api_says_when_to_come_back(chat: Installation) -> None:
    for node in chat.nodes.values():
        node.send(signal.SIGSTOP)
    answers: list[Any] = []
    for i in range(8):
        body = {"type": "room.open", "subject": f"room:r{i}", "payload": {"title": "R"}}
        ask = partial(chat.api.call, "POST", "/commands", body, headers={"Idempotency-Key": f"key-{i}"})
        try:
            answers.append((await answered(ask))["state"])
        except Refused as refused:
            answers.append((refused.status, refused.code))
    for node in chat.nodes.values():
        node.send(signal.SIGCONT)
    assert answers == ["accepted"] * 5 + [(429, "overloaded")] * 3

    async def accepted_again() -> bool:
        with contextlib.suppress(Refused):
            await chat.done("room.open", "room:after", title="After")
            return True
        return False

    await until(accepted_again, 60)
