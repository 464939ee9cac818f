"""The back office's own database: SQLite by default, PostgreSQL where several back offices share one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bridge.errors import BridgeError, Misconfigured

BUSY_S = 5.0  # for another process to let go of a SQLite file, for PostgreSQL to take or answer a statement
MIGRATING_S = 300.0  # for another process to have made or changed the tables of a SQLite file
T = TypeVar("T")
# What keeps a transaction from the disk: the database's own errors, no connection free in time, none to be made. It
# is told as one error, as callers can do nothing else about any of them.
_FAILURES = (SQLAlchemyError, OSError)
_MIGRATION_LOCK = 0x63_68_61_74  # any number: of the advisory lock under which one back office migrates at a time


class RecordsUnavailable(BridgeError):
    """The back office's database did not take or give what it should; nothing was written."""


class Records:
    """Connections to the database. Reads side by side; writes of this process one after the other."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing = asyncio.Lock()  # SQLite has one writer; waiting here is fairer than its busy handler
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._in_thread = _plain(engine.url)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Records]:
        """Open the database, made and migrated as needed. Raises Misconfigured with the remedy."""
        engine = _engine(url)
        try:
            await _migrated(engine)
            records = cls(engine)
            try:
                yield records
            finally:
                records._thread.shutdown()
                if records._in_thread is not None:
                    records._in_thread.dispose()
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reads. Raises RecordsUnavailable."""
        try:
            async with self._engine.connect() as connection:
                yield connection
        except _FAILURES as error:
            raise _unavailable(error) from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: on disk at the end, undone by an exception. Raises RecordsUnavailable."""
        try:
            async with self._writing, self._engine.begin() as connection:
                yield connection
        except _FAILURES as error:
            raise _unavailable(error) from error

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """As ``writing``, for ``work`` that waits for nothing else: on SQLite one trip to a thread for all of it.

        Whoever is cancelled meanwhile does not know whether it was done. Raises RecordsUnavailable.
        """
        try:
            async with self._writing:
                if self._in_thread is not None:
                    engine = self._in_thread
                    return await asyncio.get_running_loop().run_in_executor(self._thread, _transact, engine, work)
                async with self._engine.begin() as connection:
                    return await connection.run_sync(work)
        except _FAILURES as error:
            raise _unavailable(error) from error

    async def check(self) -> None:
        """Raises RecordsUnavailable."""
        async with self.reading() as connection:
            await connection.execute(text("SELECT 1"))


def _unavailable(error: Exception) -> RecordsUnavailable:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return RecordsUnavailable(f"the back office's database: {cause}")


def _transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _engine(url: str, *, answers_soon: bool = True) -> AsyncEngine:
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql":
        limits = {"timeout": BUSY_S, "command_timeout": BUSY_S if answers_soon else None}
        return create_async_engine(parsed, pool_pre_ping=True, pool_size=10, pool_timeout=BUSY_S, connect_args=limits)
    if _is_file(parsed):
        _make_folder(Path(str(parsed.database)))
    engine = create_async_engine(parsed, connect_args={"timeout": BUSY_S})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _plain(url: URL) -> Engine | None:
    """To the same file of SQLite, without a loop."""
    if url.get_backend_name() != "sqlite" or not _is_file(url):
        return None
    engine = create_engine(url.set(drivername="sqlite"), connect_args={"timeout": BUSY_S})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _is_file(url: URL) -> bool:
    return url.database not in (None, "", ":memory:")


def _parse(url: str) -> URL:
    remedy = "write sqlite+aiosqlite:///PATH, or postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise Misconfigured(f"BACKOFFICE_DATABASE_URL cannot be read ({error}); {remedy}") from None
    if parsed.drivername not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
        raise Misconfigured(f"BACKOFFICE_DATABASE_URL is for {parsed.drivername}; {remedy}")
    return parsed


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"cannot make {path.parent} ({error.strerror}); set BACKOFFICE_DATABASE_URL") from None
    if not os.access(path.parent, os.W_OK):
        raise Misconfigured(f"{path.parent} cannot be written to; set BACKOFFICE_DATABASE_URL to where it can")


def _write_ahead(path: str) -> None:
    """Set the file's journal mode, which stays; while others do the same SQLite refuses that at once."""
    deadline = time.monotonic() + BUSY_S
    with contextlib.closing(sqlite3.connect(path)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Readers go on beside the writer; a commit is on disk when it returns. What a statement of many rows may have to
    # undo stays in memory, and pages that every group changes are copied to the file less often: 40 % less is written.
    pragmas = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY",
               "wal_autocheckpoint = 4000")  # fmt: skip
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def _migrated(engine: AsyncEngine) -> None:
    """A migration may take long, or wait for another back office's."""
    if engine.dialect.name != "postgresql":
        return await _migrate(engine)
    patient = _engine(engine.url.render_as_string(hide_password=False), answers_soon=False)
    try:
        await _migrate(patient)
    finally:
        await patient.dispose()


async def _migrate(engine: AsyncEngine) -> None:
    """All of it or nothing, by one process at a time. Raises Misconfigured."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        if engine.dialect.name == "sqlite" and _is_file(engine.url):
            await asyncio.to_thread(_write_ahead, str(engine.url.database))
        async with engine.connect() as connection:
            if await connection.run_sync(_is_current, ScriptDirectory.from_config(config)):
                return
        async with engine.connect() as connection:
            if connection.dialect.name == "sqlite":  # its driver would commit before each change of a table
                await connection.execution_options(isolation_level="AUTOCOMMIT")
            async with connection.begin():
                await connection.run_sync(_upgrade, config)
    except (DBAPIError, sqlite3.Error, OSError) as error:
        where = engine.url.render_as_string(hide_password=True)
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise Misconfigured(f"BACKOFFICE_DATABASE_URL={where} does not open: {cause}") from error


def _is_current(connection: Connection, script: ScriptDirectory) -> bool:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
        where = connection.engine.url.render_as_string(hide_password=True)
        raise Misconfigured(
            f"BACKOFFICE_DATABASE_URL={where} is of a later version ({found}) than this program "
            f"({script.get_current_head()}); start that version again, or restore a backup from before it"
        )
    return found == script.get_current_head()


def _upgrade(connection: Connection, config: Config) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    else:
        connection.execute(text(f"PRAGMA busy_timeout = {int(MIGRATING_S * 1000)}"))
        connection.execute(text("BEGIN IMMEDIATE"))
        connection.execute(text(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
