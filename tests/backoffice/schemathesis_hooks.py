"""What Schemathesis cannot make up by itself: cursors, keys, times not years ahead. Its own process loads it."""

from __future__ import annotations

import os
import re
from datetime import date
from functools import cache
from itertools import count
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st

URL, TOKEN = os.environ.get("BACKOFFICE_URL", ""), os.environ.get("BACKOFFICE_TOKEN", "")
TYPES = os.environ.get("COMMAND_TYPES", "").split()
A_CURSOR = "a-cursor-of-this-list"
KEY_HEADER, KEY = "Idempotency-Key", re.compile(r"[\x21-\x7e]{1,200}")
_serial = count(1)

# Nobody can make a cursor up: this one is replaced by one that the list itself gave.
schemathesis.openapi.format("cursor", st.just(A_CURSOR))
# The document cannot say "within the next year", which is what deliver_at takes.
schemathesis.openapi.format(
    "date-time", st.dates(date(1971, 1, 1), date(2026, 1, 1)).map("{:%Y-%m-%dT18:00:00Z}".format)
)


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """In the quick profile a few kinds of commands stand for all: they differ in their payloads only."""
    if TYPES:
        body = raw_schema["paths"]["/commands"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        mapping = body["discriminator"]["mapping"]
        body["discriminator"]["mapping"] = kept = {type_: mapping[type_] for type_ in TYPES}
        body["oneOf"] = [{"$ref": reference} for reference in kept.values()]


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: dict[str, Any]) -> None:
    """Real cursors, or none where a list has one page only; a key of its own for each command; numbers as they go."""
    for place, path in ((case.query, case.formatted_path), (case.body, "/dead")):
        if isinstance(place, dict) and place.get("cursor") == A_CURSOR:
            cursor = _cursor(path)
            if cursor is None:
                del place["cursor"]
            else:
                place["cursor"] = cursor
    if case.meta is not None and case.meta.generation.mode.is_positive:
        case.body = _written(case.body)
    key = case.headers.get(KEY_HEADER)
    if isinstance(key, str) and KEY.fullmatch(key):
        case.headers[KEY_HEADER] = f"{next(_serial)}-{key}"[:200]


def _written(value: Any) -> Any:
    """Integers without a fraction and with 64 bits, which the document says in words only: to a schema 60.0 is one."""
    if isinstance(value, dict):
        return {name: _written(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_written(part) for part in value]
    if isinstance(value, int | float) and abs(value) >= 1 << 63:
        return 0
    return int(value) if isinstance(value, float) and value.is_integer() else value


@cache
def _cursor(path: str) -> str | None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.get(f"{URL}/api/v1{path}", {"limit": "1"}, headers=headers, timeout=10)
    cursor: str | None = answer.json().get("next_cursor")
    return cursor
