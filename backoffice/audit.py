"""The audit chain: who wanted what done, written before it is done, and what came of it, as a second entry.

Each entry holds the hash of the one before, so that none can be changed, removed or moved
unseen. Each back office writes a chain of its own: several can share a database without
waiting for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import audit, audit_heads
from bridge.chain import FIRST_PREV, Entry, digest

INTENT = "intended"  # the result of an entry that is written before the effect
MAX_WAITING = 20_000  # entries that wait for the database; beyond it writes are refused
_AT_ONCE = 1000  # entries a transaction
_TRIES = 5  # of a transaction where another process writes the same chain


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody wants to do, to one target."""

    by: str
    action: str
    target: str
    address: str
    request_id: str
    reason: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class _Waiting(NamedTuple):
    act: Act
    result: str
    of: asyncio.Future[int] | None
    at: int
    written: asyncio.Future[int]  # its seq, once it is on disk


class Audit:
    """Writes one chain, many entries a transaction. ``run`` must be running."""

    def __init__(self, records: Records, chain: str) -> None:
        self.chain = chain
        self._records = records
        self._waiting: deque[_Waiting] = deque()
        self._stirred = asyncio.Event()
        self._head: tuple[int, str] | None = None  # seq and hash; None: to be read

    async def intend(self, acts: Sequence[Act]) -> list[asyncio.Future[int]]:
        """Write that these are about to be done; on disk when this returns. Raises RecordsUnavailable.

        The answer is what ``conclude`` takes, in the order of the acts.
        """
        return await self._write([(act, INTENT, None) for act in acts])

    async def refuse(self, act: Act, result: str) -> None:
        """Write that this was wanted and will not be done. Raises RecordsUnavailable."""
        await self._write([(act, result, None)])

    def conclude(self, act: Act, of: asyncio.Future[int], result: str) -> None:
        """Tell what came of an intent; written soon. While the database is away the oldest of these wait, bounded."""
        if len(self._waiting) < MAX_WAITING:
            self._put(act, result, of)

    async def run(self) -> None:
        """Write what is put in, until cancelled; what waits then is written first."""
        try:
            while True:
                await self._stirred.wait()
                self._stirred.clear()
                await self._drain()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._drain()
            self._fail(RecordsUnavailable("the back office stops"))

    async def _write(self, wanted: Sequence[tuple[Act, str, None]]) -> list[asyncio.Future[int]]:
        if len(self._waiting) + len(wanted) > MAX_WAITING:
            raise RecordsUnavailable("too much waits to be written to the audit chain")
        written = [self._put(act, result, of) for act, result, of in wanted]
        await asyncio.wait(written[-1:])  # they are written in order
        for each in written:
            each.result()
        return written

    def _put(self, act: Act, result: str, of: asyncio.Future[int] | None) -> asyncio.Future[int]:
        written = asyncio.get_running_loop().create_future()
        written.add_done_callback(_heard)
        self._waiting.append(_Waiting(act, result[:200], of, int(time.time() * 1000), written))
        self._stirred.set()
        return written

    async def _drain(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            try:
                entries = await self._commit(batch)
            except RecordsUnavailable as error:
                self._head = None
                for each in batch:
                    each.written.set_exception(error)
            else:
                for each, entry in zip(batch, entries, strict=True):
                    each.written.set_result(entry.seq)

    async def _commit(self, batch: Sequence[_Waiting]) -> list[Entry]:
        for left in reversed(range(_TRIES)):
            try:
                async with self._records.writing() as connection:
                    if self._head is None:
                        self._head = await _read_head(connection, self.chain)
                    entries = _chained(self.chain, self._head, batch)
                    await connection.execute(insert(audit), [entry._asdict() for entry in entries])
                    await _write_head(connection, entries[-1])
            except RecordsUnavailable as error:
                self._head = None
                if not left or not isinstance(error.__cause__, IntegrityError):
                    raise
                continue  # another process went on with this chain
            self._head = entries[-1].seq, entries[-1].hash
            return entries
        raise AssertionError("unreachable")

    def _fail(self, error: Exception) -> None:
        while self._waiting:
            self._waiting.popleft().written.set_exception(error)


def _heard(written: asyncio.Future[int]) -> None:
    """Somebody who concludes does not wait; asyncio shall not call that a failure nobody looked at."""
    if not written.cancelled():
        written.exception()


def _chained(chain: str, head: tuple[int, str], batch: Iterable[_Waiting]) -> list[Entry]:
    seq, prev = head
    entries: list[Entry] = []
    for each in batch:
        seq += 1
        of = each.of.result() if each.of is not None and each.of.done() and each.of.exception() is None else None
        act = each.act
        entry = Entry(chain, seq, each.at, act.by, act.action, act.target[:200], act.reason, act.address,
                      act.request_id, each.result, of, orjson.dumps(act.detail).decode(), prev, "")  # fmt: skip
        prev = digest(entry)
        entries.append(entry._replace(hash=prev))
    return entries


async def entries_of(connection: AsyncConnection) -> AsyncIterator[Entry]:
    """All entries, each chain in order, without loading them at once."""
    columns = [audit.c[name] for name in Entry._fields]
    result = await connection.stream(select(*columns).order_by(audit.c.chain, audit.c.seq))
    async for row in result:
        yield Entry(*row)


async def _read_head(connection: AsyncConnection, chain: str) -> tuple[int, str]:
    last = select(audit.c.seq, audit.c.hash).where(audit.c.chain == chain).order_by(audit.c.seq.desc()).limit(1)
    found = (await connection.execute(last)).first()
    return (found.seq, found.hash) if found is not None else (0, FIRST_PREV)


async def _write_head(connection: AsyncConnection, entry: Entry) -> None:
    known = audit_heads.c.chain == entry.chain
    values = {"seq": entry.seq, "hash": entry.hash}
    changed = await connection.execute(audit_heads.update().where(known).values(values))
    if changed.rowcount == 0:
        await connection.execute(insert(audit_heads).values(chain=entry.chain, **values))
