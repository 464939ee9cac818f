"""Pictures of every page of the admin UI, from a demo with bots: light, dark and 400 px wide, into a folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import redis.asyncio as redis
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.runtimes import CHROMIUM_OPTIONS, chromium
from tests.waiting import until

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1360, "height": 850}, "color_scheme": "light", "locale": "en-GB"},
    "dark": {"viewport": {"width": 1360, "height": 850}, "color_scheme": "dark", "locale": "ko-KR"},
    "narrow": {"viewport": {"width": 400, "height": 850}, "color_scheme": "light", "locale": "en-GB"},
    "narrow-dark": {"viewport": {"width": 400, "height": 850}, "color_scheme": "dark", "locale": "ko-KR"},
}
PATHS = {
    "login": "/login", "overview": "/", "commands": "/commands", "command": "/commands/{command}",
    "issue": "/commands/new?type=member.mute", "rooms": "/rooms", "room": "/rooms/lobby", "users": "/users",
    "user": "/users/griefer42", "sanctions": "/sanctions", "announce": "/announce", "dead": "/dead",
    "dead-letter": "/dead/{dead}", "nodes": "/nodes", "shards": "/shards", "shard": "/shards/7", "audit": "/audit",
    "access": "/access", "system": "/system", "password": "/password",
    "missing": "/rooms/nowhere", "no-page": "/command/7", "sent-again": "/dead?requeued=true",
    "bad-search": "/commands?q=typ:x", "nothing": "/commands?q=by:nobody",
}  # fmt: skip


async def pictures(folder: Path, wanted: set[str]) -> None:
    with tempfile.TemporaryDirectory() as data:
        ready = Path(data, "ready.json")
        command = (sys.executable, "-m", "bridge.cli", "demo", "--port", "0", "--ready-file", os.fspath(ready))
        demo = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            await until(ready.exists, 60, what="the demo serves")
            where = json.loads(ready.read_text())
            paths = await furnish(where)
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
                for view, options in VIEWS.items():
                    await photograph(browser, view, options, where, paths, folder, wanted)
                await browser.close()
        finally:
            demo.send_signal(signal.SIGTERM)
            await demo.wait()


async def furnish(where: dict[str, Any]) -> dict[str, str]:
    """Something to look at; the pages' paths by name."""
    headers = {"Authorization": f"Bearer {where['api_token']}"}
    commands = [
        ("member.mute", "room:lobby", {"user": "noisy-norbert", "seconds": 3600}, "spam in the lobby"),
        ("user.ban", "user:griefer42", {"seconds": 604_800}, "third warning"),
        ("room.slow_mode", "room:lobby", {"seconds": 5}, "raid"),
        ("notice.post", "room:lobby", {"text": "Maintenance at 22:00", "level": "warning"}, None),
        ("room.freeze", "room:unknown-room", {}, "does not exist"),
    ]
    async with aiohttp.ClientSession(where["backoffice"], headers=headers) as api:
        for type, subject, payload, reason in commands:
            body = {"type": type, "subject": subject, "payload": payload, "reason": reason}
            async with api.post("/api/v1/commands?wait=5", json=body) as answer:
                command = (await answer.json())["id"]
        await bury(where["redis_url"])
        dead = await until(lambda: _first_dead(api), what="dead letters")
    return {name: path.format(command=command, dead=dead) for name, path in PATHS.items()}


async def bury(redis_url: str) -> None:
    """Commands of another program, which no node knows."""
    async with redis.Redis.from_url(redis_url) as server:
        for number, type in enumerate(["shop.gift", "shop.gift", "guild.rename"]):
            entry = {"v": "1", "type": type, "subject": f"user:u{number}", "payload": '{"item":"sword"}', "by": "shop"}
            await server.xadd("chat:{7}:commands", {**entry, "at": "1"})


async def _first_dead(api: aiohttp.ClientSession) -> str | None:
    async with api.get("/api/v1/dead") as answer:
        items = (await answer.json())["items"]
        return str(items[0]["id"]) if len(items) == 3 else None


async def photograph(
    browser: Browser,
    view: str,
    options: dict[str, Any],
    where: dict[str, Any],
    paths: dict[str, str],
    folder: Path,
    wanted: set[str],
) -> None:
    context = await browser.new_context(**options)
    page: Page = await context.new_page()
    page.on("console", lambda message: print(view, page.url, message.type, message.text))  # noqa: T201
    url = where["backoffice"]
    await page.goto(f"{url}/login")
    if not wanted or "login" in wanted:
        await page.screenshot(path=folder / f"login-{view}.png")
    await page.locator("[name=name]").fill(where["admin"]["user"])
    await page.locator("[name=password]").fill(where["admin"]["password"])
    await page.locator("button.primary").click()
    for name, path in paths.items():
        if name == "login" or (wanted and name not in wanted):
            continue
        await page.goto(url + path)
        await page.locator("#link:not(:empty)").wait_for(state="attached")
        await page.wait_for_timeout(1500 if name == "overview" else 300)
        await page.screenshot(path=folder / f"{name}-{view}.png")
    await context.close()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    os.makedirs(target, exist_ok=True)  # noqa: PTH103
    asyncio.run(pictures(target, set(sys.argv[2:])))
