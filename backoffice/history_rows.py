"""Commands as rows of the history's table: what their columns hold, how they are written, and read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from backoffice.bulk import Insert
from backoffice.tables import commands, positions
from bridge.envelope import Step
from bridge.record import Failure, Outcome

OPEN = "open"  # state of a row whose end nobody has told
OVERLAP_MS = 60_000  # read again after a server was lost: its successor may have had the end of the record anew
_TEXT_CHARS = 4000  # of reason and payload that a search for words looks at
_MOST = 2**63 - 1  # what a column of integers holds
_COLUMNS = [column.name for column in commands.c if column.name != "requeued_as"]  # that one another command tells
ENDED = Insert(commands, _COLUMNS, over="id")
ACCEPTED = Insert(commands, _COLUMNS, over="id", keep=True)  # one that has ended is known already
POSITIONS = Insert(positions, positions.c.keys(), over="shard")
_LINK = update(commands).where(commands.c.id == bindparam("of")).values(requeued_as=bindparam("by_id"))


def _row(outcome: Outcome) -> tuple[Any, ...]:
    """The columns of a command, in their order."""
    kind, _, id = outcome.subject.partition(":")
    payload = outcome.payload if isinstance(outcome.payload, dict) else {}
    user = id if kind == "user" else payload.get("user")
    text = f"{outcome.reason or ''}\n{orjson.dumps(outcome.payload).decode()}"
    ended_at = outcome.timeline[-1].at if outcome.ended and outcome.timeline else None
    return (
        outcome.id, clean(outcome.type[:64]), clean(outcome.subject[:97]),
        clean(user[:64]) if isinstance(user, str) else None, clean(outcome.issued_by[:100]),
        outcome.state if outcome.ended else OPEN, None if outcome.node is None else clean(outcome.node[:63]),
        min(outcome.issued_at, _MOST), None if ended_at is None else min(ended_at, _MOST),
        clean(folded(text)[:_TEXT_CHARS]), orjson.dumps(outcome).decode(),
    )  # fmt: skip


def rows(outcomes: Iterable[Outcome]) -> list[tuple[Any, ...]]:
    return in_order(map(_row, outcomes))


def links(outcomes: Iterable[Outcome]) -> list[dict[str, str]]:
    """Which commands were repeated, and by which ones, for ``write_links``."""
    found = {outcome.origin: outcome.id for outcome in outcomes if outcome.origin is not None}
    return [{"of": clean(of), "by_id": id} for of, id in sorted(found.items())]


def write_links(connection: Connection, links: Sequence[dict[str, str]]) -> None:
    if links:
        connection.execute(_LINK, links)


def outcome_of(found: Any) -> Outcome:
    """What the columns ``data`` and ``requeued_as`` tell."""
    record = orjson.loads(found.data)
    record["timeline"] = tuple(Step(**step) for step in record["timeline"])
    record["error"] = None if record["error"] is None else Failure(**record["error"])
    record["requeued_as"] = found.requeued_as or record["requeued_as"]
    return Outcome(**record)


def in_order(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By their key, so that two back offices that write the same rows do not wait for each other in a circle."""
    return sorted(rows, key=itemgetter(0))


def folded(text: str) -> str:
    """As a search for words compares it; here, as SQLite folds no letters but those of ASCII."""
    return text.lower()


def clean(text: str) -> str:
    """Without NUL, which PostgreSQL takes in no text."""
    return text.replace("\0", "")


def is_of_values(error: BaseException | None) -> bool:
    """Whether a database refused what it was given, and will again; otherwise it was not there."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    refused = isinstance(error, DataError | IntegrityError) or str(getattr(error.orig, "sqlstate", ""))[:2] == "22"
    return refused or isinstance(getattr(error.orig, "__cause__", None), ValueError)  # the driver's word for it


def back(entry: str) -> str:
    """A place in the record a while before this one."""
    return f"{max(0, order(entry)[0] - OVERLAP_MS)}-0"


def order(entry: str) -> tuple[int, int]:
    """Of the entries of a record."""
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq or 0)
