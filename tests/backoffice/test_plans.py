"""With 20,000 commands every listing is read along an index, on both databases, and finds what it should."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ClauseElement, text
from sqlalchemy.ext.asyncio import AsyncConnection

from backoffice import history
from backoffice.api import audit
from backoffice.api.audit import AuditQuery
from backoffice.history import Wanted
from backoffice.records import Records
from backoffice.tables import audit as entries
from bench.past import OF_RARE, RARE, make, outcomes
from tests.backoffice.conftest import both_databases

COUNT = 20_000
FEW = 1000  # rows that PostgreSQL may sort rather than read in order
LONG_AGO = (1, "0-1-0")
TIMES = [outcome.issued_at for outcome in outcomes(COUNT)]
OLD, MIDDLE = TIMES[COUNT // 50], TIMES[COUNT // 2]

COMMANDS = [
    Wanted(), Wanted(type="user.ban"), Wanted(type="no.such"), Wanted(subject="room:r7"), Wanted(user="u7"),
    Wanted(user=RARE), Wanted(by="operator-3"), Wanted(node="node-3"), Wanted(node="nowhere"), Wanted(state="done"),
    Wanted(state="dead"), Wanted(state="accepted"), Wanted(since=MIDDLE), Wanted(until=OLD),
    Wanted(since=OLD, until=MIDDLE), Wanted(user=RARE, type="user.ban"), Wanted(by="operator-3", state="dead"),
    Wanted(text="no such words"), Wanted(text="spam", user="u7"),
]  # fmt: skip


def at(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


AUDIT = [
    {}, {"by": "operator-3"}, {"by": "nobody"}, {"target": "room:r7"}, {"request_id": "bench-5"},
    {"request_id": "none"}, {"action": "tokens.make"}, {"action": "tokens"}, {"action": "commands"}, {"action": "none"},
    {"since": at(MIDDLE)}, {"until": at(OLD)}, {"since": at(OLD), "until": at(MIDDLE)}, {"action": "tokens", "by": "x"},
]  # fmt: skip


# Two things and more that are asked for, and along the index of which of them the rows are read.
NARROW = [
    (Wanted(user="u7", type="user.ban"), "user"), (Wanted(user="u7", state="done"), "user"),
    (Wanted(user="u7", by="operator-3"), "user"), (Wanted(user="u7", node="node-3"), "user"),
    (Wanted(user="u7", subject="room:r7"), "user"), (Wanted(subject="room:r7", node="node-3"), "subject"),
    (Wanted(subject="room:r7", by="operator-3", type="user.ban", state="done", node="node-3"), "subject"),
    (Wanted(by="operator-3", state="done"), "by"), (Wanted(by="operator-3", state="dead"), "state"),
    (Wanted(by="operator-3", state="accepted"), "state"), (Wanted(by="operator-3", type="user.ban"), "by"),
    (Wanted(type="user.ban", node="node-3"), "type"), (Wanted(node="node-3", state="done"), "node"),
    (Wanted(user="u7", state="done", since=MIDDLE), "user"), (Wanted(text="spam", user="u7", state="done"), "user"),
]  # fmt: skip
NARROW_AUDIT: list[tuple[dict[str, Any], str]] = [
    ({"target": "room:r7", "action": "commands.issue"}, "target"),
    ({"target": "room:r7", "action": "commands"}, "target"),
    ({"request_id": "bench-5", "action": "commands.issue"}, "request_id"),
    ({"request_id": "bench-5", "by": "operator-3", "target": "room:r7"}, "request_id"),
    ({"target": "room:r7", "by": "operator-3"}, "target"), ({"by": "operator-3", "action": "commands.issue"}, "by"),
    ({"by": "operator-3", "action": "commands.issue", "since": at(OLD)}, "by"),
]  # fmt: skip


@pytest.mark.parametrize("counted", [False, True], ids=["fresh", "analyzed"])
async def test_what_is_found_along_several_indexes_is_read_along_the_narrowest(tmp_path: Path, counted: bool) -> None:
    """Of SQLite, which nobody has told how many rows a value has."""
    async with Records.open(f"sqlite+aiosqlite:///{tmp_path}/plan.sqlite3") as records:
        if counted:
            await make(records, 1000)
            async with records.writing() as connection:
                await connection.execute(text("ANALYZE"))
        async with records.reading() as connection:
            for wanted, name in NARROW:
                for after in (None, (MIDDLE, "9-9-9")):
                    told = await plan(connection, history._page(wanted, after, 101))
                    assert re.findall(r"commands USING INDEX ix_commands_(\w+)_issued_at_id", told) == [name], wanted
            for given, name in NARROW_AUDIT:
                for after_id in (None, COUNT // 2):
                    told = await plan(connection, await audit._wanted(connection, AuditQuery(**given), after_id))
                    assert set(re.findall(r"audit USING INDEX ix_audit_(\w+)_id", told)) == {name}, (given, told)


@pytest.fixture
async def connection(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncConnection]:
    monkeypatch.setattr("backoffice.records.BUSY_S", 60.0)  # so many rows take a while on a busy machine
    async with Records.open(database_url) as records:
        await make(records, COUNT)
        async with records.writing() as connection:
            await connection.execute(text("ANALYZE"))
        async with records.reading() as connection:
            yield connection


async def plan(connection: AsyncConnection, query: ClauseElement) -> str:
    sqlite = connection.dialect.name == "sqlite"
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    explained = f"EXPLAIN {'QUERY PLAN' if sqlite else ''} {compiled}"
    rows = (await connection.exec_driver_sql(explained)).all()
    return "\n".join(str(row[-1]) for row in rows)


def check(told: str, name: object, *, whole: bool = False, sorts: int = 0) -> None:
    """No table is read whole but to show its newest rows, and nothing is sorted but what is known to be few rows."""
    assert not re.search("Seq Scan on (commands|audit)", told), (name, told)
    assert whole or not re.search(r"SCAN (commands|audit)", told), (name, told)
    assert told.count("TEMP B-TREE") <= sorts, (name, told)
    assert all(int(rows) <= FEW for rows in re.findall(r"Sort  \(cost=\S+ rows=(\d+)", told)), (name, told)


@both_databases
async def test_every_listing_is_read_along_an_index(connection: AsyncConnection) -> None:
    for wanted in COMMANDS:
        for after in (None, LONG_AGO, (MIDDLE, "9-9-9")):
            limit = 101 if wanted.text is None else history._SCAN_ROWS
            whole = wanted in (Wanted(), Wanted(text=wanted.text))
            check(await plan(connection, history._page(wanted, after, limit)), wanted, whole=whole)
    check(await plan(connection, history._open(MIDDLE, (OLD, "1-1-1"))), "open rows")
    for given in AUDIT:
        query = AuditQuery(limit=100, **given)
        for after_id in (None, COUNT // 2):
            # An action's first word stands for a few actions, each read along its index; their pages are sorted.
            sorts = 2 if given.get("action") == "commands" else 0
            told = await plan(connection, await audit._wanted(connection, query, after_id))
            check(told, given, whole=not given, sorts=sorts)


@both_databases
async def test_what_is_found_is_what_a_full_look_finds(connection: AsyncConnection) -> None:
    everything = (await connection.execute(entries.select().order_by(entries.c.id.desc()))).all()

    def ms(time: str) -> int:
        return round(datetime.fromisoformat(time).timestamp() * 1000)

    def fits(row: Any, given: dict[str, Any]) -> bool:
        return (
            all(getattr(row, name) == given[name] for name in ("by", "target", "request_id") if name in given)
            and ("action" not in given or row.action == given["action"] or row.action.startswith(f"{given['action']}."))
            and ("since" not in given or row.at >= ms(given["since"]))
            and ("until" not in given or row.at < ms(given["until"]))
        )

    for given in AUDIT:
        wanted = await audit._wanted(connection, AuditQuery(limit=100, **given), None)
        found = [row.id for row in await connection.execute(wanted)]
        assert found == [row.id for row in everything if fits(row, given)][:101], given
    rare = (await connection.execute(history._page(Wanted(user=RARE), None, 500))).all()
    assert len(rare) == OF_RARE
