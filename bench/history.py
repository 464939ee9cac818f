"""A million commands in the history: how long lists take, a user's oldest commands, and what an export needs.

The database is made once where ``BENCH_HISTORY`` names a file, and used again by the next run.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

import bridge.chat.commands  # noqa: F401 - registers room.open
from backoffice.records import Records
from bench.measure import Figures, Row, Session, percentile
from bench.past import DAYS, OF_RARE, RARE, make
from bench.workload import redis_server
from bridge.child import Child
from bridge.client import Bridge

COMMANDS = 1_000_000
ASKED = 25  # times, each page
BAR_PAGE_MS, BAR_USER_S, BAR_GROWTH_MIB = 300, 1.0, 32
ROOMS, SANCTIONS, DEAD = 300, 600, 500
TOKEN, PASSWORD = "bench-token-0123456789abcdef", "bench password 1"
_RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"
_LOOK_S = 0.05  # between two looks at the memory of the back office

API = (
    "/commands", "/commands?type=user.ban", "/commands?subject=room:r7", "/commands?user=u7", f"/commands?user={RARE}",
    "/commands?by=operator-3", "/commands?node=node-3", "/commands?node=nowhere", "/commands?state=dead",
    "/commands?by=operator-3&state=dead", "/commands?since={old}&until={middle}", "/commands?until={old}",
    "/commands?text=spam", "/commands?text=nowhere", "/audit", "/audit?by=operator-3", "/audit?target=room:r7",
    "/audit?action=tokens", "/audit?action=commands", "/audit?request_id=bench-77", "/audit?since={old}&until={middle}",
    "/dead", "/dead?type=none", "/rooms", "/sanctions", f"/users/{RARE}", "/nodes", "/shards", "/operators", "/tokens",
)  # fmt: skip
UI = (
    "/", "/commands", "/commands?q=type:user.ban", f"/commands?q=user:{RARE}", "/commands?q=state:dead",
    "/commands?q=spam", "/audit", "/dead", "/rooms", "/rooms/r7", "/users", f"/users/{RARE}", "/sanctions", "/nodes",
    "/shards", "/access", "/announce", "/system",
)  # fmt: skip


async def bench(session: Session) -> AsyncIterator[Row]:
    count = session.some(COMMANDS, 20_000)
    kept = os.environ.get("BENCH_HISTORY")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        file = Path(kept) if kept else Path(directory, "history.sqlite3")
        began = time.monotonic()
        async with Records.open(f"sqlite+aiosqlite:///{file}") as records:
            await make(records, count, lambda made: session.say(f"history: {made:,} of {count:,} commands"))
        session.say(f"made in {time.monotonic() - began:.0f} s")
        yield _one("on disc, with an entry of the audit chain for each", "MiB", file.stat().st_size / (1 << 20), count)
        async with _office(file, directory) as office, _visitor(office) as http:
            async for row in _measure(session, office, http, count):
                yield row


async def _measure(session: Session, office: Child, http: aiohttp.ClientSession, count: int) -> AsyncIterator[Row]:
    for what, paths in (("the API's lists", [f"/api/v1{path}" for path in API]), ("admin pages", UI)):
        slowest: dict[str, float] = {}
        for path in paths:
            session.say(f"history: {path}")
            slowest[path] = percentile([await _asked(http, path) for _ in range(ASKED)], 0.95)
        worst = sorted(slowest, key=lambda path: -slowest[path])
        notes = {path: round(slowest[path], 1) for path in worst}
        yield _one(f"{what}, p95 of the slowest ({worst[0]})", "ms", slowest[worst[0]], count, BAR_PAGE_MS, notes)
    began = time.monotonic()
    found = [item async for item in _all(http, f"/api/v1/commands?user={RARE}&limit=100")]
    if len(found) != OF_RARE:
        raise RuntimeError(f"{len(found)} commands about {RARE}, not {OF_RARE}")
    took = time.monotonic() - began
    yield _one("all commands about one user, the oldest there are", "s", took, count, BAR_USER_S)
    for what, format_ in (("commands", "jsonl"), ("audit", "csv")):
        grown, rate = await _export(session, office, http, f"/api/v1/export?what={what}&format={format_}")
        notes = {"rows per s": round(count / rate)}
        yield _one(f"export of {what} as {format_}, what it adds in memory", "MiB", grown, count, BAR_GROWTH_MIB, notes)


async def _asked(http: aiohttp.ClientSession, path: str) -> float:
    """Milliseconds."""
    old, middle = _times()
    began = time.perf_counter()
    async with http.get(path.format(old=old, middle=middle)) as answer:
        body = await answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:300]!r}")
    return (time.perf_counter() - began) * 1000


async def _all(http: aiohttp.ClientSession, path: str) -> AsyncIterator[Any]:
    cursor = ""
    while cursor is not None:
        async with http.get(f"{path}{cursor and f'&cursor={cursor}'}") as answer:
            page = await answer.json()
        for item in page["items"]:
            yield item
        cursor = page["next_cursor"]


async def _export(session: Session, office: Child, http: aiohttp.ClientSession, path: str) -> tuple[float, float]:
    """MiB that the back office has more at its most than before, and how many seconds it took."""
    process, size = psutil.Process(office.pid), 0
    before = most = process.memory_info().rss
    began, looked = time.monotonic(), 0.0
    async with http.get(path) as answer:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if time.monotonic() - looked > _LOOK_S:
                looked, most = time.monotonic(), max(most, process.memory_info().rss)
                session.say(f"history: {path}, {size >> 20:,} MiB")
    return (most - before) / (1 << 20), time.monotonic() - began


@asynccontextmanager
async def _office(file: Path, directory: str) -> AsyncIterator[Child]:
    """A back office on that database, with rooms, sanctions and dead letters on its server."""
    async with redis_server() as server:
        settings = {
            "BRIDGE_REDIS_URL": server.url,
            "BACKOFFICE_DATABASE_URL": f"sqlite+aiosqlite:///{file}",
            "BACKOFFICE_API_TOKENS": f"bench:admin:{TOKEN}",
            "BACKOFFICE_ADMIN_PASSWORD": PASSWORD,
        }
        office, node = (Child(name, name, Path(directory), {**os.environ, **settings, **more}) for name, more in (
            ("backoffice", {}), ("chatserver", {"CHATSERVER_JWT_KEY": "k" * 32, "CHATSERVER_NODE_NAME": "node-a",
                            "CHATSERVER_ORIGINS": "none"})
        ))  # fmt: skip
        try:
            await asyncio.gather(office.start(), node.start())
            async with Bridge.connect(server.url) as bridge:
                await _fill(bridge)
            yield office
        finally:
            await asyncio.gather(office.stop(), node.stop())


async def _fill(bridge: Bridge) -> None:
    wanted = [("room.open", f"room:r{n}", {"title": f"Room {n}"}) for n in range(ROOMS)]
    wanted += [("member.mute", f"room:r{n % ROOMS}", {"user": f"u{n}"}) for n in range(SANCTIONS)]
    receipts = [await bridge.publish(type_, subject, payload, by="bench") for type_, subject, payload in wanted]
    for n in range(DEAD):
        await bridge.redis.call("XADD", bridge.keys.commands(n % bridge.shards), "*", "v", "9", "type", "none")
    await asyncio.gather(*(bridge.outcome(receipt.id, wait=30) for receipt in receipts))


@asynccontextmanager
async def _visitor(office: Child) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who is logged in, for the pages, and has a token, for the API."""
    jar, headers = aiohttp.CookieJar(unsafe=True), {"Authorization": f"Bearer {TOKEN}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(office.told["url"], cookie_jar=jar, headers=headers, timeout=timeout) as http:
        who = {"name": "admin", "password": PASSWORD}
        async with http.post("/login", data=who, headers={"Sec-Fetch-Site": "same-origin"}) as answer:
            if answer.status != 200:
                raise RuntimeError(f"no login: {answer.status}")
        yield http


def _times() -> tuple[str, str]:
    """Long ago, and less so."""
    old, middle = (time.gmtime(time.time() - share * DAYS * 86_400) for share in (0.98, 0.5))
    return time.strftime(_RFC_3339, old), time.strftime(_RFC_3339, middle)


def _one(
    case: str, unit: str, value: float, count: int, bar: float | None = None, notes: dict[str, Any] | None = None
) -> Row:
    return Row("history", f"{count:,} commands: {case}", unit, Figures((value,)), None, bar, more_is_better=False,
               notes=notes or {})  # fmt: skip
