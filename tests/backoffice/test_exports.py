"""Exports, page by page and harmless in a spreadsheet; cursors that hold while rows come in."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from functools import partial

import orjson
import pytest

from backoffice.api import export
from backoffice.api.audit import AuditEntry
from backoffice.api.command_views import CommandView
from backoffice.api.dead_letters import DeadLetterView
from backoffice.audit_rows import Act, Line, append
from backoffice.records import Records
from bridge.client import Bridge
from tests.backoffice.service import Api
from tests.servers import Server
from tests.waiting import until

EVIL = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20x")
COUNT = 25


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
    assert told == dict.fromkeys(row, f"'{evil}")


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
