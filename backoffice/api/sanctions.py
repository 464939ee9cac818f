"""Sanctions that hold now: mutes and bans, of a room or everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aiohttp import web

from backoffice.operators import Role
from backoffice.paging import Paged, cursor_of, page
from backoffice.routes import Call, ListOf, Route, reply
from backoffice.times import time_of, time_or_none
from bridge.chat.state import Sanction, list_sanctions, place


@dataclass(frozen=True, slots=True)
class SanctionView:
    """A mute or ban; ``room`` null means everywhere, ``until`` null without end."""

    kind: Literal["mute", "ban"]
    room: str | None
    user: str
    since: datetime
    until: datetime | None
    reason: str | None
    by: str
    command_id: str
    shadow: bool


async def listing(call: Call[Paged, None]) -> web.Response:
    """Every mute and ban that holds now: those that hold everywhere first, then by room and user."""
    query = call.query
    found = await list_sanctions(call.bridge, after=query.after(str) or "", limit=query.limit + 1)
    kept = found[: query.limit]
    next_cursor = cursor_of(place(kept[-1])) if len(found) > len(kept) else None
    return reply(page(list(map(sanction_view, kept)), next_cursor))


def sanction_view(sanction: Sanction) -> SanctionView:
    return SanctionView(
        sanction.kind,
        sanction.room,
        sanction.user,
        time_of(sanction.since),
        time_or_none(sanction.until),
        sanction.reason,
        sanction.by,
        sanction.command_id,
        sanction.shadow,
    )


ROUTES = (Route("GET", "/sanctions", listing, Role.VIEWER, {200: ListOf(SanctionView)}, query=Paged),)
