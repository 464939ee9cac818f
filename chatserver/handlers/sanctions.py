"""What all sanctions have in common: their record, their times, their entry in the index. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bridge.chat.state import Sanction, SanctionType, index_member
from bridge.effects import Effects
from bridge.envelope import Command


def sanction_of(
    command: Command[Any],
    kind: SanctionType,
    *,
    user: str,
    room: str | None,
    seconds: int | None,
    shadow: bool = False,
) -> Sanction:
    """The sanction that a command asks for; it begins now, by the server's clock."""
    now = now_ms(command)
    return Sanction(
        kind,
        user,
        room,
        since=now,
        until=None if seconds is None else now + seconds * 1000,
        reason=command.reason,
        by=command.issued_by,
        command_id=command.id,
        shadow=shadow,
    )


def index(effects: Effects, sanction: Sanction) -> Effects:
    """Note it where all sanctions of the shard are listed, until it ends."""
    member = index_member(sanction.kind, sanction.user, sanction.room)
    return effects.zadd("sanctions", member, float("inf") if sanction.until is None else sanction.until, shared=True)


def unindex(effects: Effects, kind: SanctionType, user: str, room: str | None) -> Effects:
    return effects.zrem("sanctions", index_member(kind, user, room), shared=True)


def now_ms(command: Command[Any]) -> int:
    return int(command.now * 1000)


def rfc3339(ms: int | None) -> str | None:
    """A time as the API writes it; None = without end."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
