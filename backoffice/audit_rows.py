"""Entries of the audit chain as rows of its table, each with the hash of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from backoffice.bulk import Insert
from backoffice.tables import audit, audit_heads
from bridge.chain import FIRST_PREV, Entry, seal

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


def append(
    chain: str, head: tuple[int, str] | None, lines: Sequence[Line], connection: Connection
) -> tuple[int, tuple[int, str]]:
    """Write entries after ``head`` (None: read it). The first entry's seq, and the chain's new head."""
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
        values = (chain, seq, line.at, _plain(by), action, _plain(target[:200]), reason and _plain(reason),
                  _plain(address), request_id, line.result, of, line.detail, prev)  # fmt: skip
        prev = seal(values)
        rows.append((*values, prev))
    return rows


def _plain(given: str) -> str:
    """As every database takes it: PostgreSQL has no NUL, and half of a surrogate pair has no form in UTF-8."""
    if given.isascii() and "\0" not in given:
        return given
    return given.replace("\0", "\ufffd").encode(errors="replace").decode()


def _read_head(connection: Connection, chain: str) -> tuple[int, str]:
    last = select(audit.c.seq, audit.c.hash).where(audit.c.chain == chain).order_by(audit.c.seq.desc()).limit(1)
    found = connection.execute(last).first()
    return (found.seq, found.hash) if found is not None else (0, FIRST_PREV)
