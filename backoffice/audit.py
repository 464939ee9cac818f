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
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from backoffice.bulk import Insert
from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import audit, audit_heads
from bridge.chain import FIRST_PREV, Entry, seal

INTENT = "intended"  # the result of an entry that is written before the effect
MAX_WAITING = 20_000  # entries that wait for the database; beyond it writes are refused
RESULTS_WAIT_S = 0.02  # for intents, to be written with them
_AT_ONCE = 1000  # entries a transaction, and what the last of its callers has beyond
_TRIES = 5  # of a transaction where another process writes the same chain
_ENTRIES = Insert(audit, Entry._fields)
_HEADS = Insert(audit_heads, audit_heads.c.keys(), over="chain")


class Act(NamedTuple):
    """What somebody wants to do, to one target."""

    by: str
    action: str
    target: str
    address: str
    request_id: str
    reason: str | None
    detail: dict[str, Any]


@dataclass(slots=True)
class Line:
    """An entry that is to be written."""

    act: Act
    detail: str
    result: str
    of: Line | None  # whose result it tells
    at: int
    seq: int | None = None  # None: it is not on disk


class _Waiting(NamedTuple):
    lines: Sequence[Line]
    written: asyncio.Future[None] | None  # None: nobody waits


class Audit:
    """Writes one chain, many entries a transaction. ``run`` must be running."""

    def __init__(self, records: Records, chain: str) -> None:
        self.chain = chain
        self._records = records
        self._waiting: deque[_Waiting] = deque()
        self._count = 0  # entries that wait
        self._stirred = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._head: tuple[int, str] | None = None  # seq and hash; None: to be read

    async def intend(self, acts: Sequence[Act]) -> list[Line]:
        """Write that these are about to be done; on disk when this returns. Raises RecordsUnavailable.

        The answer is what ``conclude`` takes, in the order of the acts.
        """
        return await self._write(acts, INTENT)

    async def refuse(self, act: Act, result: str) -> None:
        """Write that this was wanted and will not be done. Raises RecordsUnavailable."""
        await self._write((act,), result)

    def conclude(self, of: Line, result: str) -> None:
        """Tell what came of an intent; written soon. While the database is away the oldest of these wait, bounded."""
        if self._count < MAX_WAITING:
            self._put(_Waiting((Line(of.act, of.detail, result[:200], of, _now_ms()),), None))
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_later(RESULTS_WAIT_S, self._stirred.set)

    async def run(self) -> None:
        """Write what is put in, until cancelled; what waits then is written first."""
        draining: asyncio.Task[None] | None = None
        try:
            while True:
                await self._stirred.wait()
                draining = asyncio.create_task(self._drain(), name="audit")
                await asyncio.shield(draining)  # a transaction that has begun ends
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    if draining is not None:
                        await draining
                    await self._drain()
            self._fail(self._waiting, RecordsUnavailable("the back office stops"))

    async def _write(self, acts: Sequence[Act], result: str) -> list[Line]:
        if self._count + len(acts) > MAX_WAITING:
            raise RecordsUnavailable("too much waits to be written to the audit chain")
        now = _now_ms()
        lines = [Line(act, orjson.dumps(act.detail).decode(), result[:200], None, now) for act in acts]
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Waiting(lines, written))
        self._stirred.set()
        await written
        return lines

    def _put(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._count += len(waiting.lines)

    async def _drain(self) -> None:
        self._stirred.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        while self._waiting:
            group = self._next_group()
            try:
                await self._commit([line for waiting in group for line in waiting.lines])
            except RecordsUnavailable as error:
                self._head = None
                self._fail(group, error)
            else:
                for _, written in group:
                    if written is not None and not written.done():
                        written.set_result(None)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and size < _AT_ONCE:
            group.append(self._waiting.popleft())
            size += len(group[-1].lines)
        self._count -= size
        return group

    async def _commit(self, lines: Sequence[Line]) -> None:
        for left in reversed(range(_TRIES)):
            try:
                first, self._head = await self._records.transact(partial(_append, self.chain, self._head, lines))
            except RecordsUnavailable as error:
                self._head = None
                if not left or not isinstance(error.__cause__, IntegrityError):
                    raise
                continue  # another process went on with this chain
            for seq, line in enumerate(lines, first):
                line.seq = seq
            return
        raise AssertionError("unreachable")

    def _fail(self, group: Sequence[_Waiting], error: Exception) -> None:
        for _, written in group:
            if written is not None and not written.done():
                written.set_exception(error)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _append(
    chain: str, head: tuple[int, str] | None, lines: Sequence[Line], connection: Connection
) -> tuple[int, tuple[int, str]]:
    """The first entry's seq, and the chain's new head."""
    if head is None:
        head = _read_head(connection, chain)
    rows = _chained(chain, head, lines)
    _ENTRIES.write(connection, rows)
    new_head = head[0] + len(rows), rows[-1][-1]
    _HEADS.write(connection, [(chain, *new_head)])
    return head[0] + 1, new_head


def _chained(chain: str, head: tuple[int, str], lines: Sequence[Line]) -> list[tuple[Any, ...]]:
    """Rows of entries."""
    seq, prev = head
    rows: list[tuple[Any, ...]] = []
    for line in lines:
        seq += 1
        by, action, target, address, request_id, reason, _ = line.act
        of = line.of.seq if line.of is not None else None
        values = (chain, seq, line.at, by, action, target[:200], reason, address, request_id, line.result, of,
                  line.detail, prev)  # fmt: skip
        prev = seal(values)
        rows.append((*values, prev))
    return rows


async def entries_of(connection: AsyncConnection) -> AsyncIterator[Entry]:
    """All entries, each chain in order, without loading them at once."""
    columns = [audit.c[name] for name in Entry._fields]
    result = await connection.stream(select(*columns).order_by(audit.c.chain, audit.c.seq))
    async for row in result:
        yield Entry(*row)


def _read_head(connection: Connection, chain: str) -> tuple[int, str]:
    last = select(audit.c.seq, audit.c.hash).where(audit.c.chain == chain).order_by(audit.c.seq.desc()).limit(1)
    found = connection.execute(last).first()
    return (found.seq, found.hash) if found is not None else (0, FIRST_PREV)
