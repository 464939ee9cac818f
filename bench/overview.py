"""The admin UI in Chromium: what the Overview takes of a core while everything changes, and what pages hold on to.

As ``python -m bench.overview URL NODES`` it is the process with the nodes and their commands.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from playwright.async_api import Page, async_playwright

from bench.http import ADMIN, PASSWORD, back_office
from bench.measure import Figures, Row, Session, child, heard, say
from bench.workload import PAYLOAD, SUBJECTS, make_registry, redis_server
from bridge.child import Child
from bridge.client import Bridge

NODES = 20
COMMANDS_PER_S = 50
UPDATES = 60  # of a list
LOOKS = 20  # updates of the Overview, one a second
LISTS = ("/commands", "/nodes", "/shards")
BAR_SHARE = 0.2  # of a core
BAR_KIB = 8  # that an update may leave behind
_WARM_UP = 5  # updates: the first compile what later ones run
_AN_UPDATE_S = 10.0  # at most; a page that is not updated at all has no figures
_FIRST = 10  # updates before the first look at the heap


async def bench(session: Session) -> AsyncIterator[Row]:
    async with (
        redis_server() as server,
        back_office(server.url) as office,
        child("bench.overview", server.url, str(NODES)) as nodes,
        _opened(office) as open_page,
    ):
        await nodes.hear()
        updates = session.some(UPDATES, 20)
        case = f"64 shards, {NODES} nodes, {COMMANDS_PER_S} commands/s: the page's tasks"
        share, _ = await session.rounds("overview", partial(_busy, open_page))
        yield Row("overview", case, "of a core", share, None, BAR_SHARE, more_is_better=False)
        for path in LISTS:
            session.say(f"overview: the heap of {path}")
            left = Figures((await _growth(open_page, path, updates),))
            yield Row("overview", f"{path}: left on the heap by an update", "KiB", left, None, BAR_KIB,
                      more_is_better=False, notes={"updates": updates})  # fmt: skip


Open = Callable[[str], Awaitable[Page]]


@asynccontextmanager
async def _opened(office: Child) -> AsyncIterator[Open]:
    """Opens pages in a tab of somebody who is logged in, one after the other."""
    url = office.told["url"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        context = await browser.new_context(locale="en-GB", viewport={"width": 1360, "height": 850})
        page = await context.new_page()
        await page.goto(f"{url}/login")
        await page.locator("[name=name]").fill(ADMIN)
        await page.locator("[name=password]").fill(PASSWORD)
        await page.locator("button.primary").click()

        async def open_page(path: str) -> Page:
            await page.goto(url + path)
            await page.locator("#link:not(:empty)").wait_for()
            return page

        yield open_page
        await browser.close()


async def _busy(open_page: Open) -> float:
    """The share of a core that the page's main thread worked."""
    page = await open_page("/")
    async with _watched(page) as (tools, updated):
        await updated(_WARM_UP)
        before = await _metrics(tools)
        await updated(LOOKS)
        after = await _metrics(tools)
    return (after["TaskDuration"] - before["TaskDuration"]) / (after["Timestamp"] - before["Timestamp"])


async def _growth(open_page: Open, path: str, updates: int) -> float:
    """KiB that each update left, counted after collections of garbage."""
    page = await open_page(path)
    async with _watched(page) as (tools, updated):
        await updated(_FIRST)
        first = await _heap(tools)
        await updated(updates)
        last = await _heap(tools)
    return (last - first) / updates / 1024


@asynccontextmanager
async def _watched(page: Page) -> AsyncIterator[tuple[Any, Callable[[int], Awaitable[None]]]]:
    """The browser's tools, and what waits for so many updates of the page."""
    tools = await page.context.new_cdp_session(page)
    await tools.send("Performance.enable")
    came: asyncio.Queue[None] = asyncio.Queue()

    def count(response: Any) -> None:
        if response.request.resource_type == "fetch" and response.url == page.url:
            came.put_nowait(None)

    async def updated(times: int) -> None:
        async with asyncio.timeout(times * _AN_UPDATE_S):
            for _ in range(times):
                await came.get()

    page.on("response", count)
    try:
        yield tools, updated
    finally:
        page.remove_listener("response", count)
        await tools.detach()


async def _heap(tools: Any) -> float:
    for _ in range(3):  # what finalizers let go of is collected by the next one
        await tools.send("HeapProfiler.collectGarbage")
    return (await _metrics(tools))["JSHeapUsedSize"]


async def _metrics(tools: Any) -> dict[str, float]:
    return {each["name"]: each["value"] for each in (await tools.send("Performance.getMetrics"))["metrics"]}


async def _nodes(url: str, count: int) -> None:
    """Nodes that beat and handle, and somebody who gives them something to do."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as running:
        bridges = [await stack.enter_async_context(Bridge.connect(url, registry=make_registry())) for _ in range(count)]
        tasks = [running.create_task(bridge.serve(f"node-{n:02}")) for n, bridge in enumerate(bridges)]
        tasks.append(running.create_task(_issue(bridges[0])))
        while sum(shard.holder is not None for shard in await bridges[0].shard_infos()) < bridges[0].shards:
            await asyncio.sleep(0.1)
        say("ready")
        await heard()
        for task in tasks:
            task.cancel()


async def _issue(bridge: Bridge) -> None:
    number = 0
    while True:
        number += 1
        await bridge.publish("bench.look", f"user:u{number % SUBJECTS}", PAYLOAD, by="bench")
        await asyncio.sleep(1 / COMMANDS_PER_S)


if __name__ == "__main__":
    asyncio.run(_nodes(sys.argv[1], int(sys.argv[2])))
