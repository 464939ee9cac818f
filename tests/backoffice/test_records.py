"""The database: its migrations and its tables say the same, on both kinds; what is wrong is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from backoffice import migrations
from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import metadata
from bridge.errors import Misconfigured
from tests.backoffice.conftest import both_databases


@both_databases
async def test_migrations_make_the_tables_that_the_code_uses(database_url: str) -> None:
    for _ in range(2):  # the second time there is nothing to do
        async with Records.open(database_url) as records, records.reading() as connection:
            assert await connection.run_sync(_differences) == []


OLD_ROW = """INSERT INTO commands (id, type, subject, "by", state, issued_at, text, data)
VALUES (:id, 'room.open', 'room:lobby', 'test', 'done', :at, :text, :data)"""
KILLED = """
import asyncio, os, sys
from sqlalchemy import Engine, event
from backoffice.records import Records

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    if sys.argv[2] in statement:
        os._exit(9)

async def open_it():
    async with Records.open(sys.argv[1]):
        pass

asyncio.run(open_it())
"""


@both_databases
@pytest.mark.parametrize("at", ["ix_audit_by_id", "ix_audit_request_id_id"])
async def test_an_upgrade_that_was_killed_half_way_is_done_at_the_next_start(database_url: str, at: str) -> None:
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, database_url, at], check=False)
    assert killed.returncode == 9
    async with Records.open(database_url) as records, records.reading() as connection:
        assert await connection.run_sync(_differences) == []


@both_databases
async def test_rows_of_an_older_version_are_found_as_new_ones_are(
    database_url: str,
) -> None:
    old = [
        ("Привет Ä", '{"origin":null}'), ("plain CAPITALS", '{"origin":null}'), ("ÄRGER", '{"origin":"0-1-1"}'),
        ("욕설", '{"origin":null,"payload":{"origin":"0-2-1"}}'),
    ]  # fmt: skip
    await made_by("0003", database_url)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        for number, (words, data) in enumerate(old, 1):
            row = {"id": f"0-{number}-1", "at": number, "text": words, "data": data}
            await connection.execute(text(OLD_ROW), row)
    await engine.dispose()
    async with Records.open(database_url) as records, records.reading() as connection:
        found = (await connection.execute(text("SELECT text, requeued_as FROM commands ORDER BY id"))).all()
    assert [tuple(row) for row in found] == [
        ("привет ä", "0-3-1"), ("plain CAPITALS", None), ("ärger", None), ("욕설", None)
    ]  # fmt: skip


@both_databases
async def test_two_that_start_on_a_new_database_do_not_disturb_each_other(database_url: str) -> None:
    async def start() -> None:
        async with Records.open(database_url) as records, records.reading() as connection:
            assert await connection.run_sync(_differences) == []

    await asyncio.gather(*(start() for _ in range(4)))


@both_databases
async def test_a_database_of_a_later_version_is_told_with_what_to_do(database_url: str) -> None:
    async with Records.open(database_url) as records, records.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(Misconfigured, match=r"later version \(0999\).*restore a backup"):
        async with Records.open(database_url):
            pass


@both_databases
async def test_a_failed_write_leaves_nothing(database_url: str) -> None:
    async with Records.open(database_url) as records:

        async def write_twice() -> None:
            async with records.writing() as connection:
                for _ in range(2):
                    await connection.execute(text("INSERT INTO positions (shard, last) VALUES (1, '1-1')"))

        with pytest.raises(RecordsUnavailable):
            await write_twice()
        async with records.reading() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM positions"))).scalar_one() == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "sqlite"),
        ("mysql://x/y", "postgresql"),
        ("postgresql://x/y", r"postgresql\+asyncpg"),
        ("postgresql+asyncpg://nobody:secret@127.0.0.1:1/x", "does not open"),
        ("sqlite+aiosqlite:////proc/nowhere/x.db", "cannot"),
    ],
)
async def test_a_database_that_cannot_be_used_is_told_without_its_password(url: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as refused:
        async with Records.open(url):
            pass
    assert "secret" not in str(refused.value)


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    file = tmp_path / "backoffice.sqlite3"
    file.write_text("this is no database, and longer than a header of one would be " * 10)
    with pytest.raises(Misconfigured, match="not a database"):
        async with Records.open(f"sqlite+aiosqlite:///{file}"):
            pass


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def made_by(revision: str, url: str) -> None:
    """As a program of that version would have left an empty database."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
