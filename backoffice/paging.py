"""Lists: how many items an answer has, and where the next one goes on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import Field

from backoffice.intake import Query
from backoffice.problems import Fault, Problem, invalid

MAX_LIMIT = 500
DEFAULT_LIMIT = 100
MAX_CURSOR = 1000  # characters
MAX_NUMBER = 2**63 - 1  # what a database holds

T = TypeVar("T")
K = TypeVar("K", int, str)


class Paged(Query):
    """Parameters of every list."""

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(
        None,
        max_length=MAX_CURSOR,
        description="next_cursor of the answer before",
        json_schema_extra={"format": "cursor"},  # opaque: nobody can make one up
    )

    def after(self, kind: type[K]) -> K | None:
        """Where the page begins. Raises Problem if nobody got this cursor from such a list."""
        if self.cursor is None:
            return None
        try:
            value = orjson.loads(base64.b64decode(self.cursor + "=" * (-len(self.cursor) % 4), b"-_", validate=True))
        except (binascii.Error, ValueError):
            raise bad_cursor() from None
        if type(value) is not kind or (type(value) is int and not -MAX_NUMBER <= int(value) <= MAX_NUMBER):
            raise bad_cursor()
        return value


def page(items: Sequence[Any], next_cursor: str | None = None) -> dict[str, Any]:
    return {"items": items, "next_cursor": next_cursor}


def cursor_of(value: int | str) -> str:
    """Opaque to callers; says where a list goes on."""
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def cut(items: Sequence[T], query: Paged, key: Callable[[T], K], kind: type[K]) -> dict[str, Any]:
    """One page of items that are sorted by ``key``."""
    after = query.after(kind)
    following = [item for item in items if after is None or key(item) > after]
    kept = following[: query.limit]
    return page(kept, cursor_of(key(kept[-1])) if len(following) > len(kept) else None)


def bad_cursor() -> Problem:
    return invalid([Fault("?cursor", "bad_cursor", "not a cursor of this list; begin without one")])
