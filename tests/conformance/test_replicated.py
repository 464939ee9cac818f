"""Writes that wait for replicas: what has run is not run again because the waiting failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.connection import Redis
from bridge.link import Link
from bridge.replicated import Replicated
from bridge.scripts import Script
from tests.servers import Server
from tests.waiting import until


@pytest.fixture
def count(tmp_path: Path) -> Script:
    """How often it has run."""
    (tmp_path / "count.lua").write_text("return redis.call('INCR', KEYS[1])")
    return Script.load(tmp_path / "count.lua")


@pytest.fixture
async def replicated_within(server: Server) -> AsyncIterator[Callable[[float], Replicated]]:
    """Of a server without replicas, so that waiting takes all its time."""
    made: list[Replicated] = []

    def make(within_s: float) -> Replicated:
        made.append(Replicated(partial(Redis.connect, server.url, timeout=within_s + 10), 1, within_s))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_a_write_that_ran_late_is_not_repeated_where_the_connection_goes_before_its_wait(
    replicated_within: Callable[[float], Replicated], count: Script
) -> None:
    replicated = replicated_within(0.05)
    wait, waits = replicated._wait, list[Link]()

    def cut_before_the_second(link: Link) -> asyncio.Future[int]:
        waits.append(link)
        if len(waits) == 2:
            link.close("cut")
        return wait(link)

    replicated._wait = cut_before_the_second  # type: ignore[method-assign]
    assert await replicated.run(count, ("ran",), ()) == (1, 0)
    assert len(waits) == 2  # the server did not know the script


async def test_a_write_is_not_repeated_where_its_wait_is_broken_off(
    replicated_within: Callable[[float], Replicated], count: Script, server: Server
) -> None:
    raw: Any = server.client()

    async def waiting() -> list[str]:
        return [
            client["id"] for client in await raw.client_list() if client["cmd"] == "wait" and "b" in client["flags"]
        ]

    await raw.script_load(count.source)  # so that there is one wait
    writing = asyncio.create_task(replicated_within(5).run(count, ("ran",), ()))
    [id] = await until(waiting)
    await raw.client_unblock(id, error=True)  # as a server does that is a replica from now on
    assert await writing == (1, 0)
