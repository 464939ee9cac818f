"""Two back offices, each a process of its own, on one PostgreSQL; one is killed and the other goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp

from backoffice.records import Records
from bridge.chain import Verifier
from bridge.child import Child
from bridge.client import Bridge
from tests.backoffice.audited import entries_of
from tests.backoffice.service import PASSWORD
from tests.postgres import Postgres
from tests.servers import Server
from tests.waiting import until

TOKEN = "admin-token-0123456789"
SAME = {"Sec-Fetch-Site": "same-origin"}


@asynccontextmanager
async def offices(server: Server, database: str, directory: Path) -> AsyncIterator[list[Child]]:
    """Both start at once, on a database that nobody has made tables in."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    common = {"BRIDGE_REDIS_URL": server.url, "BRIDGE_SHARDS": "8", "BACKOFFICE_DATABASE_URL": database,
              "BACKOFFICE_API_TOKENS": f"ann:admin:{TOKEN}", "BACKOFFICE_ADMIN_PASSWORD": PASSWORD,
              "PYTHONPATH": str(Path.cwd())}  # fmt: skip
    both = []
    for name in ("office-a", "office-b"):
        (directory / name).mkdir()
        own = {"BACKOFFICE_NAME": name, "BRIDGE_JOURNAL": str(directory / name / "journal")}
        both.append(Child(name, "backoffice", directory / name, {**inherited, **common, **own}))
    try:
        await asyncio.gather(*(office.start() for office in both))
        yield both
    finally:
        await asyncio.gather(*(office.stop() for office in both))


class Caller:
    """Calls with the token, or with the cookie that a login left."""

    def __init__(self, http: aiohttp.ClientSession, office: Child) -> None:
        self._http, self._base = http, f"{office.told['url']}/api/v1"

    async def call(self, method: str, path: str, body: Any = None, *, cookie: str | None = None) -> tuple[int, Any]:
        """The answer, asked for again while the machine is too busy for one in time."""
        headers = {"Authorization": f"Bearer {TOKEN}"} if cookie is None else {**SAME, "Cookie": cookie}
        headers["Idempotency-Key"] = token_hex(8)

        async def told() -> tuple[int, Any] | None:
            async with self._http.request(method, self._base + path, json=body, headers=headers) as answer:
                return None if answer.status == 503 else (answer.status, await answer.json())

        found: tuple[int, Any] = await until(told, 30, what=f"an answer to {method} {path}")
        return found

    async def issue(self, count: int, first: int = 0) -> list[str]:
        ids = []
        for number in range(first, first + count):
            body = {"type": "room.open", "subject": f"room:r{number}", "payload": {}}
            status, told = await self.call("POST", "/commands?wait=20", body)
            assert (status, told["state"]) == (200, "done")
            ids.append(told["id"])
        return ids

    async def found(self, ids: set[str]) -> None:
        """Wait until a search finds each of these once, and nothing else."""

        async def all_of_them() -> bool:
            _, answer = await self.call("GET", "/commands?limit=500&state=done")
            found = [item["id"] for item in answer["items"]]
            assert len(found) == len(set(found))
            assert set(found) <= ids
            return bool(answer["complete"]) and set(found) == ids

        await until(all_of_them, what=f"{len(ids)} commands in the history")

    async def log_in(self) -> str:
        url, who = f"{self._base}/session", {"name": "admin", "password": PASSWORD}

        async def cookie() -> str | None:
            async with self._http.post(url, json=who, headers=SAME) as answer:
                assert answer.status in (200, 503)
                return "; ".join(f"{name}={morsel.value}" for name, morsel in answer.cookies.items())

        entered: str = await until(cookie, 30, what="a login")
        return entered


async def test_two_share_everything_and_one_goes_on_alone(
    server: Server, postgres: Postgres, node: Bridge, tmp_path: Path
) -> None:
    database = postgres.new_database()
    async with offices(server, database, tmp_path) as (a, b), aiohttp.ClientSession(cookie_jar=_no_jar()) as http:
        one, other = Caller(http, a), Caller(http, b)
        issued = await asyncio.gather(one.issue(10), other.issue(10, first=100))
        ids = {id for batch in issued for id in batch}
        await one.found(ids)
        await other.found(ids)
        assert (await one.call("GET", "/alarms"))[0] == (await other.call("GET", "/alarms"))[0] == 200

        cookie = await one.log_in()
        assert (await other.call("GET", "/session", cookie=cookie))[1]["name"] == "admin"
        assert (await other.call("DELETE", "/session", cookie=cookie))[0] == 200
        assert (await one.call("GET", "/session", cookie=cookie))[0] == 401
        kept = await one.log_in()

        os.kill(a.pid, signal.SIGKILL)
        await a.wait()
        assert (await other.call("GET", "/session", cookie=kept))[0] == 200
        ids |= set(await other.issue(10, first=200))
        await other.found(ids)
        _, heads = await other.call("GET", "/audit/heads")
        assert [head["chain"] for head in heads["items"]] == ["office-a", "office-b"]
        _, entries = await other.call("GET", "/audit?limit=500&action=commands.issue")
        assert {entry["chain"] for entry in entries["items"]} == {"office-a", "office-b"}
    async with Records.open(database) as records, records.reading() as connection:
        verifier = Verifier()
        async for entry in entries_of(connection):
            verifier.look(entry)
        assert verifier.broken == []
        assert len(verifier.heads) == 2


def _no_jar() -> aiohttp.DummyCookieJar:
    """Both offices are 127.0.0.1, whose cookies a jar would mix up."""
    return aiohttp.DummyCookieJar()
