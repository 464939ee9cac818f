"""Times as the API writes them: aware datetimes in UTC, which become RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime


def time_of(ms: int) -> datetime:
    """Milliseconds since the epoch as a time."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def time_or_none(ms: int | None) -> datetime | None:
    return None if ms is None else time_of(ms)
