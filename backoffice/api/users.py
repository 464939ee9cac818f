"""Users: what holds against one, and where they are connected."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from backoffice.api.sanctions import SanctionView, sanction_view
from backoffice.intake import NoQuery
from backoffice.operators import Role
from backoffice.problems import Fault, invalid
from backoffice.routes import Call, Route, TextIn, reply
from backoffice.times import time_of
from bridge.chat.state import read_sessions, read_user_sanctions

USER_ID = re.compile(r"[A-Za-z0-9._@+-]{1,64}", re.ASCII)
_PARTS = {"id": TextIn("a user's id", f"^{USER_ID.pattern}$")}


@dataclass(frozen=True, slots=True)
class SessionView:
    """One connection."""

    session: str
    node: str
    rooms: list[str]
    connected_at: datetime


@dataclass(frozen=True, slots=True)
class UserView:
    """A user as chat knows them now; one who is not connected goes by their id."""

    id: str
    name: str
    sanctions: list[SanctionView]
    sessions: list[SessionView]


async def show(call: Call[NoQuery, None]) -> web.Response:
    """A user, whether anybody has seen them or not."""
    id = call.part("id")
    if not USER_ID.fullmatch(id):
        raise invalid([Fault("", "user_id", "a user id is 1-64 of A-Z a-z 0-9 . _ @ + -")])
    sanctions, sessions = await asyncio.gather(read_user_sanctions(call.bridge, id), read_sessions(call.bridge, id))
    shown = [SessionView(s.session, s.node, list(s.rooms), time_of(s.connected_at)) for s in sessions]
    return reply(UserView(id, sessions[-1].name if sessions else id, list(map(sanction_view, sanctions)), shown))


ROUTES = (Route("GET", "/users/{id}", show, Role.VIEWER, {200: UserView}, parts=_PARTS),)
