"""The audit chain: who wanted what done, written before it is done, and what came of it, as a second entry.

Each entry holds the hash of the one before, so that none can be changed, removed or moved
unseen. Each back office writes a chain of its own: several can share a database without
waiting for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import orjson
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError

from backoffice.audit_rows import Act, Line, append
from backoffice.records import Records, RecordsUnavailable
from backoffice.times import now_ms

INTENT = "intended"  # the result of an entry that is written before the effect
NOT_BEGUN = "not begun: the caller left, or the database was slow"  # of an intent that came to disk too late
MAX_WAITING = 20_000  # entries that wait for the database; beyond it writes are refused
RESULTS_WAIT_S = 0.02  # for intents, to be written with them
ANSWER_S = 2.0  # a database that takes longer holds nobody up: callers hear of it
RETRY_S = 1.0  # until results that were not taken are tried again, if no intent comes before
_LAST_S = 2.0  # for what waits when the back office stops
_AT_ONCE = 1000  # entries a transaction, and what the last of its callers has beyond
_PAUSES_S = 0.005, 0.1  # the longest first one, and the longest of all, where another process writes the same chain
log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    """Entries of one call, written together or not at all.

    Where the database does not take them, their caller hears of it and they are dropped. Results have no caller
    who could try again, so they wait on. An entry that no database would take fails alone.
    """

    lines: Sequence[Line]
    written: asyncio.Future[None] | None  # None: results

    @property
    def intents(self) -> bool:
        return all(line.result == INTENT for line in self.lines)

    @property
    def left(self) -> bool:
        """Whether their caller is gone, or was told that they were not written."""
        return self.written is not None and self.written.done()


class Audit:
    """Writes one chain, many entries a transaction. ``run`` must be running."""

    def __init__(self, records: Records, chain: str) -> None:
        self.chain = chain
        self.ended = False  # nothing is written any more
        self._records = records
        self._waiting: deque[_Waiting] = deque()
        self._count = 0  # entries that wait
        self._kept: list[_Waiting] = []  # results that the database did not take; they go in front of the others
        self._apart = 0  # so many of those that wait go one by one, as one of them was refused
        self._stirred = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._head: tuple[int, str] | None = None  # seq and hash; None: to be read

    async def intend(self, acts: Sequence[Act]) -> list[Line]:
        """Write that these are about to be done; on disk when this returns. Raises RecordsUnavailable.

        The answer is what ``conclude`` takes, in the order of the acts. Where it raises, or is cancelled, they are
        not in the chain, or get the result ``NOT_BEGUN`` there.
        """
        return await self._write(acts, INTENT)

    async def refuse(self, act: Act, result: str) -> None:
        """Write that this was wanted and will not be done. Raises RecordsUnavailable."""
        await self._write((act,), result)

    def conclude(self, of: Line, result: str) -> None:
        """Tell what came of an intent; written soon. While the database is away the oldest of these wait, bounded."""
        if self.ended or self._count >= MAX_WAITING:
            log.error("the audit chain lacks a result", chain=self.chain, of=of.seq, result=result)
            return
        self._put(_Waiting((Line(of.act, of.detail, result[:200], of, now_ms()),), None))
        self._stir_in(RESULTS_WAIT_S)

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
                async with asyncio.timeout(_LAST_S):
                    if draining is not None:
                        await draining
                    await self._drain()  # what came while that one wrote its last group
            self._end()

    async def _write(self, acts: Sequence[Act], result: str) -> list[Line]:
        if self.ended:
            raise RecordsUnavailable("the back office stops")
        if self._count + len(acts) > MAX_WAITING:
            raise RecordsUnavailable("too much waits to be written to the audit chain")
        now = now_ms()
        lines = [Line(act, orjson.dumps(act.detail).decode(), result[:200], None, now) for act in acts]
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(lines, written)
        self._put(waiting)
        self._stirred.set()
        try:
            await written
        except asyncio.CancelledError:
            # Its group came to disk in the very moment in which the caller left.
            if not written.cancelled() and written.exception() is None:
                self._not_begun(waiting)
            raise
        return lines

    def _put(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._count += len(waiting.lines)

    def _stir_in(self, seconds: float) -> None:
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(seconds, self._stirred.set)

    async def _drain(self) -> None:
        """Write or fail all that waits; results that the database does not take wait on."""
        self._stirred.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._put_back(self._kept)
        self._kept = []
        while self._waiting:
            if group := self._next_group():
                try:
                    await self._try(group)
                except Exception as error:
                    self._not_taken(group, error)
        if self._kept:
            self._stir_in(RETRY_S)

    def _next_group(self) -> list[_Waiting]:
        """Without the intents whose callers have left: nothing will be done, so there is nothing to tell."""
        group: list[_Waiting] = []
        size = 0
        most = 1 if self._apart else _AT_ONCE
        while self._waiting and size < most:
            waiting = self._waiting.popleft()
            self._count -= len(waiting.lines)
            self._apart = max(0, self._apart - 1)
            if not (waiting.left and waiting.intents):
                group.append(waiting)
                size += len(waiting.lines)
        return group

    async def _try(self, group: Sequence[_Waiting]) -> None:
        """Raises whatever keeps it from the disk. Callers who have waited too long are told meanwhile."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def late() -> None:
            nonlocal timer
            self._fail([*group, *self._waiting], RecordsUnavailable("the back office's database does not answer"))
            timer = loop.call_later(ANSWER_S, late)  # for those who come now

        timer = loop.call_later(ANSWER_S, late)
        try:
            await self._commit([line for waiting in group for line in waiting.lines])
        except asyncio.CancelledError:
            self._fail(group, RecordsUnavailable("the back office stops"))
            raise
        finally:
            timer.cancel()
        for waiting in group:
            if waiting.written is None:
                continue
            if waiting.left:
                self._not_begun(waiting)
            else:
                waiting.written.set_result(None)

    def _not_taken(self, group: Sequence[_Waiting], error: Exception) -> None:
        self._head = None
        results = [waiting for waiting in group if waiting.written is None]
        if not _is_refusal(error):
            self._apart = 0
            room = MAX_WAITING - len(self._kept)
            self._kept += results[:room]
            self._lose(results[room:])
        elif len(group) > 1:
            self._put_back(group)
            self._apart = len(group)
            return
        else:
            self._lose(results)
        if not isinstance(error, RecordsUnavailable):
            log.error("the audit chain was not written", chain=self.chain, exc_info=error)
            error = RecordsUnavailable(f"the audit chain was not written: {error!r}")
        self._fail(group, error)

    def _put_back(self, group: Sequence[_Waiting]) -> None:
        self._waiting.extendleft(reversed(group))
        self._count += sum(len(waiting.lines) for waiting in group)

    def _not_begun(self, waiting: _Waiting) -> None:
        """It is on disk, and whoever was to act on it is gone."""
        if waiting.intents:
            for line in waiting.lines:
                self.conclude(line, NOT_BEGUN)

    def _end(self) -> None:
        self.ended = True
        self._fail(self._waiting, RecordsUnavailable("the back office stops"))
        self._lose([*self._kept, *(waiting for waiting in self._waiting if waiting.written is None)])
        self._waiting.clear()
        self._count = 0

    def _lose(self, results: Sequence[_Waiting]) -> None:
        if results:
            log.error("the audit chain lacks results", chain=self.chain, results=len(results))

    async def _commit(self, lines: Sequence[Line]) -> None:
        """Where another process went on with this chain it is tried again, for as long as callers wait for it.

        The pauses are "Full Jitter" of M. Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015):
        without them whoever was first once is first again, as it knows the chain's head and the others have to read it.
        """
        loop, (longest, most) = asyncio.get_running_loop(), _PAUSES_S
        until = loop.time() + ANSWER_S
        while True:
            try:
                first, self._head = await self._records.transact(partial(append, self.chain, self._head, lines))
            except RecordsUnavailable as error:
                self._head = None
                if not isinstance(error.__cause__, IntegrityError) or loop.time() >= until:
                    raise
            else:
                for seq, line in enumerate(lines, first):
                    line.seq = seq
                return
            await asyncio.sleep(random.uniform(0, longest))
            longest = min(2 * longest, most)

    def _fail(self, group: Sequence[_Waiting], error: Exception) -> None:
        for _, written in group:
            if written is not None and not written.done():
                written.set_exception(error)


def _is_refusal(error: Exception) -> bool:
    """Whether it is for what an entry holds, so that no later try would end otherwise."""
    cause = error.__cause__ if isinstance(error, RecordsUnavailable) else error
    if isinstance(cause, DBAPIError):
        return str(getattr(cause.orig, "sqlstate", "")).startswith("22")  # SQL's class of data exceptions
    return isinstance(cause, TypeError | ValueError)
