"""The database: its migrations and its tables say the same, on both kinds; what is wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import metadata
from bridge.errors import Misconfigured
from tests.backoffice.conftest import both_databases


@both_databases
async def test_migrations_make_the_tables_that_the_code_uses(database_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    for _ in range(2):  # the second time there is nothing to do
        async with Records.open(database_url) as records, records.reading() as connection:
            assert await connection.run_sync(differences) == []


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
