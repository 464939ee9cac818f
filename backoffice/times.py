"""Times as the API reads and writes them: RFC 3339; aware datetimes within."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def _written(value: Any) -> Any:
    """Numbers and half a time, which pydantic would take as well, are refused."""
    if value is not None and not (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        raise PydanticCustomError("time", "a time as RFC 3339 writes it, such as 2030-01-31T18:00:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_written)]


def now_ms() -> int:
    """Milliseconds since the epoch, by this machine's clock."""
    return int(time.time() * 1000)


def time_of(ms: int) -> datetime:
    """Milliseconds since the epoch as a time."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def ms_of(moment: datetime) -> int:
    """A time as milliseconds since the epoch."""
    return int(moment.timestamp() * 1000)


def ms_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else ms_of(moment)


def time_or_none(ms: int | None) -> datetime | None:
    return None if ms is None else time_of(ms)
