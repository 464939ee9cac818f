"""A publisher's accepted commands of the last minutes, on disk: SQLite, one file a process, fsynced before they count.

Several processes may share a directory. Each takes the lowest-numbered file that nobody has locked; what a process left
behind that is gone, the next one to look takes over. A file belongs to one installation (its Redis, as `chat:{meta}`
names it), because putting commands back on another one would carry them out there.

SQLite runs in one thread of its own. What arrives while it commits goes into the next transaction together, so that one
fsync serves many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from bridge.errors import Misconfigured, NotRecorded, Overloaded
from bridge.journal_file import COLUMNS, INSERT, database, lock, remove, take
from bridge.many_rows import in_statements

MAX_ROWS = 500_000  # 120 s at 4,000 a second
FULL_AGAIN_S = 5.0
COMMIT_S = 0.5  # a disk that takes longer holds nobody up: the caller repeats the command
_REMEDY = "set BRIDGE_JOURNAL to a directory that this process may write and that stays, or to off"
T = TypeVar("T")


class Row(NamedTuple):
    """One accepted operation, with all that it takes to run it again."""

    shard: int
    incarnation: str  # of the server that has it
    at: float  # when it was accepted, seconds since the epoch
    operation: str  # append, schedule, cancel, requeue or discard; bury, of a row that is made while it is put back
    id: str  # of the command
    subject: str = ""
    caller: str = ""
    key: str = ""  # idempotency key
    body: str = ""  # its hash
    origin: str = ""  # the dead command that it repeats
    letter: str = ""  # that one's entry
    extra: bytes = b""  # an outcome, or when it is due (ms)
    fields: bytes = b""  # as the stream has them, as netstrings
    place: float = 0.0  # in the order of acceptance; ``add`` gives it to what is the newest
    number: int = 0  # among those of one place


class Adopted(NamedTuple):
    """What came of looking for files that processes have left."""

    publishers: list[str]  # whose they were
    faults: list[tuple[Path, str]]  # files that stay as they are, each told once, and why


class Journal:
    """See the module. Made by ``open``; everything else runs in the event loop."""

    def __init__(self, path: Path, installation: str, connection: sqlite3.Connection, held: int, max_rows: int) -> None:
        self.path, self.installation = path, installation
        self.publisher = ""
        self.count = 0  # rows, those that are being written included
        self.max_rows = max_rows
        self._db, self._lock = connection, held
        self._last: dict[int, float] = {}  # shard → the last place given
        self._left_alone: set[Path] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._closed = False
        self._committing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, directory: Path, installation: str, *, max_rows: int = MAX_ROWS) -> Self:
        """Take a file of ``directory``, made if it lacks. Raises Misconfigured with the remedy."""
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            path, held = take(directory, installation)
        except OSError as error:
            raise Misconfigured(
                f"the journal {directory} cannot be used: {error.strerror or error}; {_REMEDY}"
            ) from None
        try:
            journal = cls(path, installation, database(path), held, max_rows)
            await journal._run(journal._prepare)
        except (sqlite3.Error, OSError) as error:
            os.close(held)
            raise Misconfigured(
                f"the journal file {path} cannot be used: {error}; move it away to go on without what it holds, "
                f"or {_REMEDY}"
            ) from None
        return journal

    def check_room(self) -> None:
        """Raises Overloaded where no further command could be kept."""
        if self.count >= self.max_rows:
            raise Overloaded(self.count, self.max_rows, FULL_AGAIN_S)

    async def add(self, row: Row, at: float | None = None) -> None:
        """Return once the row is on disk, as of ``at`` (None: its own). Raises NotRecorded if it cannot be written.

        One that has a place was accepted earlier, by a try of which nobody was told; others are their shard's newest.
        """
        if self._closed:
            raise NotRecorded(f"the journal {self.path} is closed")
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        # Their servers' clocks may go back, the order of acceptance does not; those of other publishers go between.
        at = row.at if at is None else at
        last = self._last.get(row.shard, 0.0)
        place = row.place or max(last, at)
        if row.operation not in ("cancel", "discard"):  # whose times are guesses
            self._last[row.shard] = max(last, place)
        self._waiting.append((row._replace(at=at, place=place), written))
        self.count += 1
        if self._committing is None:
            self._committing = loop.create_task(self._commit_all(), name="journal")
        await written

    async def rows(self, shard: int, other_than: str, after: Row | None, limit: int) -> list[Row]:
        """A shard's rows of other incarnations, oldest first, those ``after`` that one."""

        def select() -> list[Row]:
            found = self._db.execute(
                f"SELECT {COLUMNS}, number FROM accepted WHERE shard = ? AND incarnation != ? AND "
                "(place, number) > (?, ?) ORDER BY place, number LIMIT ?",
                (shard, other_than, *_place(after), limit),
            )
            return [Row(*values) for values in found]

        return await self._run(select)

    async def withdrawn(self, shard: int, other_than: str) -> list[Row]:
        """Its cancels and discards, which are put back first."""

        def select() -> list[Row]:
            found = self._db.execute(
                f"SELECT {COLUMNS}, number FROM accepted AS row INDEXED BY withdrawn WHERE shard = ? AND "
                "incarnation != ? AND operation IN ('cancel', 'discard') AND NOT EXISTS "
                "(SELECT 1 FROM accepted WHERE origin = row.id AND origin != '') ORDER BY place, number",
                (shard, other_than),
            )
            return [Row(*values) for values in found]

        return await self._run(select)

    async def has(self) -> dict[int, set[str]]:
        """Shards with rows, and their incarnations."""

        def select() -> dict[int, set[str]]:
            found: dict[int, set[str]] = {}
            for shard, incarnation in self._db.execute("SELECT DISTINCT shard, incarnation FROM accepted"):
                found.setdefault(shard, set()).add(incarnation)
            return found

        return await self._run(select)

    async def stand(self, numbers: Sequence[int], incarnation: str) -> None:
        """These rows were put back there."""

        def update() -> None:
            with self._db:
                self._db.executemany(
                    "UPDATE accepted SET incarnation = ? WHERE number = ?",
                    [(incarnation, number) for number in numbers],
                )

        await self._run(update)

    async def older(self, shard: int, incarnation: str, before: float, after: Row | None, limit: int) -> list[Row]:
        """A shard's rows of this incarnation that were accepted ``before`` that time, without fields and outcomes."""
        columns = COLUMNS.replace("extra, fields", "iif(operation = 'schedule', extra, x''), x''")

        def select() -> list[Row]:
            found = self._db.execute(
                f"SELECT {columns}, number FROM accepted WHERE shard = ? AND incarnation = ? AND at < ? AND "
                "(place, number) > (?, ?) ORDER BY place, number LIMIT ?",
                (shard, incarnation, before, *_place(after), limit),
            )
            return [Row(*values) for values in found]

        return await self._run(select)

    async def forget(self, numbers: Sequence[int]) -> None:
        def delete() -> int:
            with self._db:
                done = self._db.executemany("DELETE FROM accepted WHERE number = ?", [(number,) for number in numbers])
            return done.rowcount

        deleted = await self._run(delete)
        self.count -= deleted  # read after the wait: rows may have been added meanwhile

    async def adopt(self) -> Adopted:
        """Take over what processes left behind that are gone."""
        adopted, added = await self._run(self._adopt)
        self.count += added
        return adopted

    async def close(self) -> None:
        """Write what waits, and let go of the file; one without rows is removed. Nothing more is taken from now on."""
        self._closed = True
        if self._committing is not None:
            await self._committing
        try:
            if not await self._run(self._finish):
                remove(self.path)
        finally:
            self._thread.shutdown()
            os.close(self._lock)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _commit_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            rows = [row for row, _ in batch]
            writing = asyncio.get_running_loop().run_in_executor(self._thread, partial(self._insert, rows))
            while not (await asyncio.wait((writing,), timeout=COMMIT_S))[0]:
                self._fail(batch + self._waiting, "the disk does not answer")
                self.count -= len(self._waiting)
                self._waiting = []
            error = writing.exception()
            self.count -= len(batch) if error is not None else writing.result()
            if error is not None:
                self._fail(batch, str(error))
            for _, written in batch:
                if not written.done():
                    written.set_result(None)
        self._committing = None

    def _fail(self, batch: Sequence[tuple[Row, asyncio.Future[None]]], cause: str) -> None:
        for _, written in batch:
            if not written.done():
                written.set_exception(NotRecorded(f"the journal {self.path} cannot be written: {cause}"))

    # in the thread

    def _insert(self, rows: Sequence[Row]) -> int:
        """How many it had already: another try of their caller with the same key."""
        with self._db:
            statements = in_statements(INSERT, [row[:-1] for row in rows])
            done = sum(self._db.execute(text, values).rowcount for text, values in statements)
        return len(rows) - done

    def _prepare(self) -> None:
        named = self._db.execute("SELECT publisher FROM owner").fetchone()
        if named is None:
            named = (secrets.token_hex(8),)
            with self._db:
                self._db.execute("INSERT INTO owner VALUES (?)", named)
        self.publisher = named[0]
        self.count = self._rows()
        self._last = dict(self._db.execute("SELECT shard, max(place) FROM accepted GROUP BY shard"))

    def _rows(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM accepted").fetchone()[0])

    def _finish(self) -> int:
        """How many rows it leaves behind."""
        try:
            return self._rows()
        finally:
            self._db.close()

    def _adopt(self) -> tuple[Adopted, int]:
        adopted, added = Adopted([], []), 0
        for path in sorted(self.path.parent.glob(f"{self.installation}-*.sqlite")):
            try:
                names, rows = self._take_over(path) if path != self.path else ([], 0)
            except (sqlite3.Error, OSError) as error:  # damaged, somebody else's, a later version's
                if path not in self._left_alone:
                    adopted.faults.append((path, str(error)))
                self._left_alone.add(path)
            else:
                adopted.publishers.extend(names)
                added += rows
        return adopted, added

    def _take_over(self, path: Path) -> tuple[list[str], int]:
        held = lock(path)
        if held is None:
            return [], 0
        try:
            if not path.exists():  # somebody has taken it over just before
                return [], 0
            with contextlib.closing(database(path)) as other:
                rows = other.execute(f"SELECT {COLUMNS} FROM accepted ORDER BY number").fetchall()
                names = [name for (name,) in other.execute("SELECT publisher FROM owner")]
            with self._db:
                added = self._db.executemany(INSERT, rows).rowcount
            remove(path)
            return names, max(0, added)
        finally:
            os.close(held)


def minted(id: str) -> float:
    """When the server accepted a command, by its clock; ``mint`` has the microseconds in the sequence."""
    _, ms, sequence = id.split("-")
    return int(ms) / 1000 + max(0, int(sequence) - 10**9) / 2**20 / 1e6


def _place(row: Row | None) -> tuple[float, int]:
    return (row.place, row.number) if row is not None else (-1.0, -1)
