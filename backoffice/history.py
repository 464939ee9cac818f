"""The history of commands in the back office's own database: fed by the shards' records, searched by operators.

Each database remembers how far it has read each shard's record, so one that is new, was lost
or was away reads what the records still hold, by itself. A command that was accepted here is
a row at once; what its record missed, because it was capped meanwhile, its outcome tells.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, case, func, select, true, tuple_

from backoffice import narrow
from backoffice.catching_up import CatchingUp
from backoffice.history_rows import (
    ACCEPTED,
    ENDED,
    OPEN,
    back,
    clean,
    folded,
    order,
    outcome_of,
)
from backoffice.history_writing import Writer
from backoffice.missing import Missing
from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import commands, positions
from backoffice.times import now_ms
from bridge.client import Bridge
from bridge.envelope import shard_of_id
from bridge.errors import BridgeError, Unreachable
from bridge.inspector import Settled
from bridge.record import Outcome

log = structlog.get_logger(__name__)

STEP_S = 0.5  # between two looks at the records
READ_AT_ONCE = 500  # ended commands of one shard
MAX_WAITING = 10_000  # rows of accepted commands; beyond it their record brings them
STALE_MS = 30_000  # an open row older than that is asked for by its id
FIRST_LOOK = 50  # ended commands of each shard in a look at all of them; those that have more are read by themselves
SHARDS_AT_ONCE = 8
CLOSE_S = 2.0  # for what is left to write when this service ends
_ASKED_AT_ONCE = 100
_ASKED_MOST = 2000  # open rows of one round
_SCAN_ROWS = 5_000  # of one look for words
_SCAN_S = 0.15  # for all looks of one call


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which commands a search is for; None: whatever."""

    type: str | None = None
    subject: str | None = None
    user: str | None = None
    by: str | None = None
    node: str | None = None
    state: str | None = None
    since: int | None = None  # ms since the epoch, of the time they were issued; included
    until: int | None = None  # excluded
    text: str | None = None  # in reason or payload


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a search, newest first."""

    outcomes: list[Outcome]
    next: tuple[int, str] | None  # issued_at and id of the last row looked at, where the search goes on
    searched_until: int  # ms: everything issued later was looked at
    complete: bool  # nothing older is left to look at


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the history is behind the records."""

    share: float  # of what the records held when feeding began; 1 once it has come to their end
    lost: int  # times that a record was capped before it was read
    read: int


class History:
    """Feeds and searches the table of commands. ``step`` has to be called every ``STEP_S``.

    ``ended`` is told of what has ended, as it is read.
    """

    def __init__(
        self, records: Records, bridge: Bridge, *, ended: Callable[[list[Outcome]], None] = lambda outcomes: None
    ) -> None:
        self._records, self._bridge, self._ended = records, bridge, ended
        self._writer, self.missing = Writer(records), Missing()
        self._places: dict[int, str] | None = None  # shard → where its record is read on; None: to be read
        self._reached: dict[int, str] = {}  # shard → last entry ever read, beyond that place while it is read again
        self._again: dict[int, str] = {}  # shard → an earlier place, where the next step begins
        self._waiting: deque[Outcome] = deque(maxlen=MAX_WAITING)
        self._repeated: deque[str] = deque(maxlen=MAX_WAITING)
        self._catching_up = CatchingUp(range(bridge.shards))
        self._lost = self._read = 0
        self._asked: tuple[int, str] | None = None  # the open row that was asked for last; None: begin with the oldest
        self._asked_at = 0.0

    def accepted(self, outcome: Outcome) -> None:
        """A command that was accepted here just now; it is a row soon."""
        self._waiting.append(outcome)

    def repeated(self, id: str) -> None:
        """The same of one that repeats a dead one; what it is the servers tell."""
        self._repeated.append(id)

    def reread(self) -> None:
        """Read the end of each record again: the server is another one, or was away.

        A step that is under way goes on from where it is; the next one goes back to where it was now.
        """
        for shard, place in (self._places or {}).items():
            self._again[shard] = min(back(place), self._again.get(shard, place), key=order)

    @property
    def progress(self) -> Progress:
        return Progress(self._catching_up.share, self._lost, self._read)

    # feeding

    async def step(self) -> None:
        """Write what was accepted here, then what ended anywhere, until nothing more is there."""
        await self._write_accepted()
        if self._places is None:
            self._reached = await self._read_positions()
            # A server may have been lost while nobody was here to see it.
            self._places = {shard: last if last == "0" else back(last) for shard, last in self._reached.items()}
        again, self._again = self._again, {}
        self._places.update(again)
        behind = await self._read_records(self._places, list(self._places), FIRST_LOOK)
        while behind:
            group, behind = behind[:SHARDS_AT_ONCE], behind[SHARDS_AT_ONCE:]
            behind += await self._read_records(self._places, group, READ_AT_ONCE)
            await self._write_accepted()
        if time.monotonic() - self._asked_at > STALE_MS / 1000:
            self._asked_at = time.monotonic()
            await self._ask_for_open()

    async def close(self) -> None:
        """Write what was accepted here and is no row yet, as far as there is time. ``step`` must have ended."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._write_accepted()
        except (BridgeError, RecordsUnavailable, TimeoutError) as error:
            log.error("accepted commands are in no list until they end", commands=len(self._waiting), cause=str(error))

    async def _write_accepted(self) -> None:
        await self._ask_for_repeated()
        waiting, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
        try:
            await self._writer.write(ACCEPTED, list(waiting))
        except BaseException:  # this service ends, perhaps
            self._waiting = deque([*waiting, *self._waiting], MAX_WAITING)
            raise

    async def _ask_for_repeated(self) -> None:
        ids = [self._repeated.popleft() for _ in range(min(len(self._repeated), _ASKED_AT_ONCE))]
        away = [id for id in ids if self._bridge.inspector.away(shard_of_id(id))]
        asked = [id for id in ids if id not in away]
        self._repeated += away  # behind those that can be asked for
        try:
            self._waiting += [outcome for outcome in await self._now(asked) if outcome is not None]
        except BaseException as error:
            self._repeated.extendleft(reversed(asked))
            if not isinstance(error, Unreachable):
                raise

    async def _read_positions(self) -> dict[int, str]:
        async with self._records.reading() as connection:
            known = {row.shard: row.last for row in await connection.execute(select(positions))}
        return {shard: known.get(shard, "0") for shard in range(self._bridge.shards)}

    async def _read_records(self, places: dict[int, str], shards: Sequence[int], limit: int) -> list[int]:
        """One page of each of these shards, and ``places`` behind it; those that may have more."""
        pages = await self._pages(places, shards, limit)
        last_read: dict[int, str] = {}
        ended: dict[str, Outcome] = {}
        new: list[Outcome] = []
        for shard, page in pages.items():
            if not page.ended:
                continue
            reached = order(self._reached[shard])
            if self._reached[shard] != "0" and page.first is not None and order(page.first) > reached:
                self._lost += 1
                log.warning("part of the record was capped before it was read", shard=shard, since=self._reached[shard])
            last_read[shard] = page.ended[-1][0]
            ended.update((outcome.id, outcome) for _, outcome in page.ended)
            new += [outcome for entry, outcome in page.ended if order(entry) > reached]
        if last_read:
            await self._writer.write_ended(list(ended.values()), last_read)
            places.update(last_read)
            self._reached.update((s, max(last, self._reached[s], key=order)) for s, last in last_read.items())
            self._read += len(ended)
            self._ended(new)
        full = {shard: page.ended for shard, page in pages.items() if len(page.ended) == limit}
        await self._note(full, [shard for shard, page in pages.items() if not page.withheld])
        return list(full)

    async def _pages(self, places: Mapping[int, str], shards: Sequence[int], limit: int) -> dict[int, Settled]:
        """Of those whose primary answers: one that is away holds up no others. Raises Unreachable where none does."""
        there = [shard for shard in shards if not self._bridge.inspector.away(shard)]
        settled = self._bridge.outcomes.settled
        found = await asyncio.gather(*(settled(s, places[s], limit) for s in there), return_exceptions=True)
        pages = {shard: page for shard, page in zip(there, found, strict=True) if isinstance(page, Settled)}
        for error in found:
            if isinstance(error, BaseException) and not (pages and isinstance(error, Unreachable)):
                raise error
        return pages

    async def _note(self, full: Mapping[int, Sequence[tuple[str, Outcome]]], looked_at: Iterable[int]) -> None:
        """How far that is: at the end of the records, but for the ``full`` pages."""
        for shard in looked_at:
            if shard not in full:
                self._catching_up.ended(shard)
        for shard, ended in full.items():
            if self._catching_up.wants_end(shard):
                last = await self._bridge.inspector.settled_last(shard)
                self._catching_up.begins(shard, order(ended[0][0])[0], order(last)[0])
            self._catching_up.reached(shard, order(ended[-1][0])[0])

    async def _ask_for_open(self) -> None:
        """Rows that should have ended by now: their outcomes tell what a capped record did not."""
        before = now_ms() - STALE_MS
        for _ in range(_ASKED_MOST // _ASKED_AT_ONCE):
            async with self._records.reading() as connection:
                found = (await connection.execute(_open(before, self._asked))).all()
            await self._ask_for([row.id for row in found])
            # One that nobody knows any more stays open; those behind it have their turn all the same.
            self._asked = (found[-1].issued_at, found[-1].id) if len(found) == _ASKED_AT_ONCE else None
            if self._asked is None:
                break

    async def _now(self, ids: Sequence[str]) -> list[Outcome | None]:
        """As the servers know them now."""
        return await asyncio.gather(*map(self._bridge.outcome, ids))

    async def _ask_for(self, ids: Sequence[str]) -> None:
        asked = [id for id in ids if not self._bridge.inspector.away(shard_of_id(id))]
        outcomes = await self._now(asked)
        for id, outcome in zip(asked, outcomes, strict=True):
            self.missing.note(id, known=outcome is not None)
        await self._writer.write(ENDED, [outcome for outcome in outcomes if outcome is not None and outcome.ended])

    # searching

    async def search(self, wanted: Wanted, *, limit: int, after: tuple[int, str] | None = None) -> Found:
        """Newest first. A search for words looks as far as time allows and says how far that was."""
        until = time.monotonic() + _SCAN_S
        found: list[Outcome] = []
        place, complete = after, False
        async with self._records.reading() as connection:
            while len(found) < limit and not complete and (place is after or time.monotonic() < until):
                wanted_rows = _SCAN_ROWS if wanted.text is not None else limit + 1
                rows = (await connection.execute(_page(wanted, place, wanted_rows))).all()
                complete = len(rows) < wanted_rows
                for row in rows:
                    if len(found) == limit:
                        complete = False
                        break
                    place = row.issued_at, row.id
                    if row.fits:
                        found.append(outcome_of(row))
        open_ = {outcome.id: outcome for outcome in found if not outcome.ended}
        now = dict(zip(open_, await asyncio.gather(*map(self._as_now, open_.values())), strict=True))
        shown = [now.get(outcome.id, outcome) for outcome in found]
        kept = [outcome for outcome in shown if wanted.state is None or outcome.state == wanted.state]
        looked = await self._oldest(wanted.since) if place is None else place[0]
        return Found(kept, None if complete else place, looked, complete)

    async def get(self, id: str) -> Outcome | None:
        """A command that the servers have forgotten."""
        async with self._records.reading() as connection:
            query = select(commands.c.data, commands.c.requeued_as).where(commands.c.id == id)
            found = (await connection.execute(query)).one_or_none()
        return None if found is None else outcome_of(found)

    async def _oldest(self, since: int | None) -> int:
        """How far back a search has looked that met nothing: to its begin, or as far as there are commands."""
        async with self._records.reading() as connection:
            oldest = (await connection.execute(select(func.min(commands.c.issued_at)))).scalar_one()
        return max(now_ms() if oldest is None else oldest, since or 0)

    async def count(self) -> int:
        async with self._records.reading() as connection:
            return (await connection.execute(select(func.count()).select_from(commands))).scalar_one()

    async def _as_now(self, outcome: Outcome) -> Outcome:
        """An open row as the servers know it now; they may have forgotten it, or be away."""
        if self._bridge.inspector.away(shard_of_id(outcome.id)):
            return outcome
        try:
            now = await self._bridge.outcome(outcome.id)
        except Exception as error:  # a list shows what is known
            log.debug("an open command could not be asked for", id=outcome.id, cause=str(error))
            return outcome
        if now is not None:
            self.missing.note(outcome.id, known=True)
        return now or outcome


def _open(before: int, after: tuple[int, str] | None) -> Select[Any]:
    """Open rows that were issued before that time (ms), oldest first, from a row on."""
    place = commands.c.issued_at, commands.c.id
    query = select(*place).where(commands.c.state == OPEN, commands.c.issued_at < before).order_by(*place)
    return (query if after is None else query.where(tuple_(*place) > after)).limit(_ASKED_AT_ONCE)


def _page(wanted: Wanted, after: tuple[int, str] | None, limit: int) -> Any:
    """The next rows to look at, each with whether the words are in it."""
    words: ColumnElement[bool] = true()
    data: ColumnElement[Any] = commands.c.data
    if wanted.text is not None:
        words = _words(wanted.text)
        data = case((words, commands.c.data)).label("data")  # of most rows that are looked at nobody wants it
    query = select(commands.c.id, commands.c.issued_at, words.label("fits"), data, commands.c.requeued_as)
    if after is not None:
        query = query.where(tuple_(commands.c.issued_at, commands.c.id) < after)
    return query.where(*_conditions(wanted)).order_by(commands.c.issued_at.desc(), commands.c.id.desc()).limit(limit)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    # Those columns first of which a value has the fewest rows.
    given = {name: clean(value) for name in ("user", "subject", "state", "by", "type", "node")
             if (value := getattr(wanted, name)) is not None}  # fmt: skip
    if wanted.state == "done":  # as most are
        given["state"] = given.pop("state")
    elif wanted.state not in (None, "rejected", "expired", "dead", "cancelled"):
        given["state"] = OPEN
    since = [commands.c.issued_at >= wanted.since] if wanted.since is not None else []
    until = [commands.c.issued_at < wanted.until] if wanted.until is not None else []
    return [*narrow.equal(commands, given), *since, *until]


def _words(text: str) -> ColumnElement[bool]:
    # Folded once more for rows of an older version, which may write to the same database.
    return func.lower(commands.c.text).contains(clean(folded(text)), autoescape=True)
