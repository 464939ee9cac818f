"""Many rows a statement, for SQLite: a thread gives the interpreter away for each statement, and waits to get it back.

The numbers of rows are powers of two, so that few statements stay prepared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

MOST = 64  # rows a statement; SQLite takes 32,766 values


def in_statements(insert: str, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Statements with their values that insert all rows. ``insert`` is for one row, ``VALUES (?, …)`` once in it."""
    start = 0
    while start < len(rows):
        count = min(MOST, 1 << (len(rows) - start).bit_length() - 1)
        part = rows[start : start + count]
        yield _for_many(insert, count), tuple(chain.from_iterable(part))
        start += count


@lru_cache(100)
def _for_many(insert: str, count: int) -> str:
    head, _, rest = insert.partition("VALUES (")
    one, _, tail = rest.partition(")")
    return f"{head}VALUES {', '.join([f'({one})'] * count)}{tail}"
