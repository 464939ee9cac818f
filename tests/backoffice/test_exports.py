"""Exports, page by page and harmless in a spreadsheet; cursors that hold while rows come in."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from backoffice.api import export
from backoffice.api.audit import AuditEntry
from backoffice.api.command_views import CommandView
from backoffice.api.dead_letters import DeadLetterView
from backoffice.audit_rows import Act, Line, append
from backoffice.records import Records
from bridge.client import Bridge
from tests.backoffice.service import PASSWORD, TOKENS, Api
from tests.servers import Server
from tests.waiting import until

EVIL = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20x")
EVIL_SIGNS = {each[0] for each in EVIL}
COUNT = 25
LINES = 600  # of 50 kB


@dataclass(frozen=True)
class Waits:
    what: str
    api: Api

    async def until_there(self, count: int) -> None:
        async def there() -> bool:
            return len((await self.api.get(f"/export?what={self.what}")).body.splitlines()) >= count

        await until(there, what=f"{count} rows of {self.what}")


async def fill(api: Api, node: Bridge, server: Server, what: str) -> None:
    if what == "dead":
        raw = server.client()
        for number in range(COUNT):
            await raw.xadd(node.keys.commands(number % node.shards), {b"v": b"9", b"type": b"x.y"})
    else:
        commands = [{"type": "room.open", "subject": f"room:r{n}", "payload": {}} for n in range(COUNT)]
        await api.post("/commands/batch", {"commands": commands})
    await Waits(what, api).until_there(COUNT)


@pytest.mark.parametrize("what", ["commands", "audit", "dead"])
async def test_an_export_is_read_and_written_a_page_at_a_time(
    api: Api, node: Bridge, server: Server, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(api, node, server, what)
    pages: list[int] = []
    rows_of = export._rows

    def noted(items: list[object]) -> list[dict[str, object]]:
        pages.append(len(items))
        return rows_of(items)

    monkeypatch.setattr(export, "_PAGE", 10)
    monkeypatch.setattr(export, "_rows", noted)
    lines = [orjson.loads(line) for line in (await api.get(f"/export?what={what}")).body.splitlines()]
    assert max(pages) == 10
    assert len(pages) >= 3
    table = list(csv.DictReader(io.StringIO((await api.get(f"/export?what={what}&format=csv")).body.decode())))
    for rows in (lines, table):
        ids = [str(row["id"]) for row in rows]
        assert len(ids) == len(set(ids)) >= COUNT
    assert list(table[0]) == list(lines[0])


@pytest.mark.parametrize(("what", "view"), [("commands", CommandView), ("audit", AuditEntry), ("dead", DeadLetterView)])
async def test_a_table_without_rows_has_its_header(api: Api, what: str, view: type) -> None:
    answer = await api.get(f"/export?what={what}&format=csv&since=2100-01-01T00:00:00Z")
    assert list(csv.reader(io.StringIO(answer.body.decode()))) == [[field.name for field in fields(view)]]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("view", [CommandView, AuditEntry, DeadLetterView])
def test_no_column_is_a_formula(view: type, evil: str) -> None:
    row = {field.name: evil for field in fields(view)}
    table = (export._csv_header(view) + export._csv([row])).decode()
    [told] = csv.DictReader(io.StringIO(table, newline=""))
    assert told == dict.fromkeys(row, f"'{evil}".replace("\n=", "\n'=").replace("\r=", "\r'="))


@pytest.mark.parametrize("start", ["a;", "a; b;", 'a;"', 'a";"', "a\n", 'a\n"', ";;"])
@pytest.mark.parametrize("evil", EVIL)
def test_no_part_of_a_text_is_a_formula_where_semicolons_separate(start: str, evil: str) -> None:
    table = export._csv([{"first": "x", "reason": f"{start}{evil}", "last": "y"}]).decode()
    cells = [cell for row in csv.reader(io.StringIO(table, newline=""), delimiter=";") for cell in row]
    assert len(cells) > 1
    assert not [cell for cell in cells if cell.startswith(tuple(EVIL_SIGNS))]


def test_a_text_without_formulas_stays_as_it_is() -> None:
    for text in ("spam; a-b=c", "a;b", "1;2\n3", "a\n\nb", "a;\r\nb", "so; so", "x=1+1", 'said "=)"', ""):
        assert export._cell(text) == text


@pytest.mark.parametrize("path", ["/commands", "/audit"])
async def test_a_cursor_holds_while_rows_come_in(api: Api, node: Bridge, server: Server, path: str) -> None:
    await fill(api, node, server, path[1:])

    async def ids() -> list[object]:
        return [item["id"] for item in (await api.get(f"{path}?limit=500")).json["items"]]

    before = await ids()
    seen: list[object] = []
    cursor, number = "", 0
    while cursor is not None:
        page = (await api.get(f"{path}?limit=7{cursor and f'&cursor={cursor}'}")).json
        seen += [item["id"] for item in page["items"]]
        cursor, number = page["next_cursor"], number + 1
        await api.issue("room.open", f"room:new{number}", {}, wait=10)
    assert len(seen) == len(set(seen))
    assert [id for id in seen if id in set(before)] == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_chain_is_exported_without_a_gap_whatever_others_write_meanwhile(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are given before a transaction ends: those of one that ends late are lower than what was read already."""
    line = Line(Act("a", "b", "c", "d", "e", None, {}), "{}", "intended", None, 1)
    monkeypatch.setattr(export, "_PAGE", 2)
    async with Records.open(database_url) as one, Records.open(database_url) as other:
        head = (await one.transact(partial(append, "one", None, [line] * 3)))[1]
        pages = export.entries(one, None, None)
        async with other.writing() as late:
            head = (await late.run_sync(partial(append, "one", head, [line] * 2)))[1]
            await one.transact(partial(append, "two", None, [line] * 3))
            found = [(row.chain, row.seq) for row in await anext(pages)]
        await one.transact(partial(append, "one", head, [line]))
        found += [(row.chain, row.seq) async for page in pages for row in page]
    assert found == [("one", 1), ("one", 2), ("one", 3), ("two", 1), ("two", 2), ("two", 3)]


class Reader:
    """Asks for a big export, and reads it when it is told to."""

    def __init__(self, api: Api, http: aiohttp.ClientSession, app: web.Application, headers: dict[str, str]) -> None:
        self.api, self.http, self.app, self.headers = api, http, app, headers

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.http.get(f"{self.api.url}/api/v1/export?what=audit", headers=self.headers) as response:
            yield response

    async def status(self) -> int:
        """Of another call by the same one."""
        return (await self.api.as_(None).get("/alarms", headers=self.headers)).status

    async def none_is_open(self) -> None:
        await until(lambda: not self.app[export.EXPORTS], what="no open export")


@pytest.fixture
async def reader(apps: list[web.Application], api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reader]:
    """Of several times what Linux keeps in the two sockets."""
    monkeypatch.setattr(export, "_PAGE", 20)
    line = Line(Act("a", "b", "c", "d", "e", None, {}), orjson.dumps({"x": "y" * 50_000}).decode(), "done", None, 1)
    async with Records.open(f"sqlite+aiosqlite:///{api.database}") as records:
        await records.transact(partial(append, "big", None, [line] * LINES))
    async with aiohttp.ClientSession() as http:
        yield Reader(api, http, apps[0], {"Authorization": f"Bearer {TOKENS['viewer']}"})


async def with_a_session(reader: Reader) -> Callable[[], Awaitable[Any]]:
    """The reader is logged in from now on; what ends that."""
    same = {"Sec-Fetch-Site": "same-origin"}
    login = {"name": "admin", "password": PASSWORD}
    answer = await reader.api.as_(None).post("/session", login, headers=same)
    reader.headers = {**same, "Cookie": answer.headers["Set-Cookie"].split(";")[0]}
    return lambda: reader.api.as_(None).delete("/session?everywhere=1", headers=reader.headers)


async def with_a_token(reader: Reader) -> Callable[[], Awaitable[Any]]:
    made = (await reader.api.post("/tokens", {"name": "deploy", "role": "viewer"})).json
    reader.headers = {"Authorization": f"Bearer {made['token']}"}

    async def is_let_in() -> bool:
        return await reader.status() == 200

    await until(is_let_in, what="a token that is known")
    return lambda: reader.api.delete(f"/tokens/{made['id']}")


@pytest.mark.parametrize("let_in", [with_a_session, with_a_token])
async def test_an_export_ends_with_the_session_or_token(
    reader: Reader, let_in: Callable[[Reader], Awaitable[Callable[[], Awaitable[Any]]]]
) -> None:
    end = await let_in(reader)
    async with reader.asking() as response:
        await response.content.readexactly(1000)
        assert (await end()).status == 200

        async def let_in_no_more() -> bool:
            return await reader.status() == 401

        await until(let_in_no_more)
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    await reader.none_is_open()


async def test_who_does_not_read_an_export_is_cut_off(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "STALLED_S", 0.2)
    async with reader.asking() as response:
        assert response.status == 200
        await reader.none_is_open()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_slow_reader_has_time_for_each_small_part(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, write = list[int](), web.StreamResponse.write

    async def note(response: web.StreamResponse, data: bytes) -> None:
        sizes.append(len(data))
        await write(response, data)

    monkeypatch.setattr(web.StreamResponse, "write", note)
    async with reader.asking() as response:
        assert len(await response.read()) == sum(sizes) > LINES * 50_000
    assert max(sizes) <= 64 * 1024


async def test_an_export_that_is_read_in_time_is_whole(reader: Reader) -> None:
    async with reader.asking() as response:
        assert len((await response.read()).splitlines()) == LINES
    await reader.none_is_open()


async def test_so_many_exports_and_no_more(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_OF_ONE", 1)
    async with reader.asking() as first:
        assert first.status == 200
        async with reader.asking() as second:
            assert (second.status, second.headers["Retry-After"]) == (429, "5")
        assert (await reader.api.as_("operator").get("/export?what=dead")).status == 200
        monkeypatch.setattr(export, "MAX_EXPORTS", 1)
        assert (await reader.api.as_("operator").get("/export?what=dead")).status == 429
    await reader.none_is_open()
    assert (await reader.api.as_("operator").get("/export?what=dead")).status == 200
