"""What answers that go on for long have in common: there are not too many, and nobody holds one open by not reading."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from backoffice.problems import retry
from backoffice.routes import Call

STALLED_S = 30.0  # without reading at all
_AGAIN_S = 5


@contextlib.contextmanager
def counted(open_: Counter[str], call: Call[Any, Any], what: str, *, most: int, of_one: int) -> Iterator[None]:
    """``of_one``: of one operator, or of tokens of one name. Raises Problem where there are enough."""
    whose = f"{'token' if call.session is None else 'operator'} {call.caller.name}"
    if open_.total() >= most:
        raise retry("rate_limited", f"there are {most} open {what}", _AGAIN_S)
    if open_[whose] >= of_one:
        raise retry("rate_limited", f"the {whose} has {of_one} open {what}", _AGAIN_S)
    open_[whose] += 1
    try:
        yield
    finally:
        open_[whose] -= 1
        if not open_[whose]:
            del open_[whose]


def cut(request: web.Request) -> None:
    """Close the connection without waiting for the other side to read."""
    if request.transport is not None:
        request.transport.abort()
