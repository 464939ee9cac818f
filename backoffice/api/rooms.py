"""Rooms, and what was said in them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from aiohttp import web

from backoffice.intake import NoQuery
from backoffice.operators import Role
from backoffice.paging import Paged, cursor_of, page
from backoffice.problems import not_found
from backoffice.routes import Call, ListOf, Route, reply
from backoffice.times import time_of
from bridge.chat.history import HistoryItem, history_item, read_history
from bridge.chat.publications import Deleted, RoomChanged, content_of
from bridge.chat.state import RoomInfo, list_rooms, read_room
from bridge.envelope import Publication

ROOM_ID = re.compile(r"[A-Za-z0-9._@+-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room; it is there from `room.open` on."""

    id: str
    title: str
    state: Literal["open", "frozen", "closed"]
    slow_mode_s: int  # between two messages of one user; 0 = off
    members: int  # different users present


@dataclass(frozen=True, slots=True)
class HistoryView:
    """A message or kept notice. The text of a deleted one is null; user and name of a notice are."""

    message_id: str
    offset: int
    kind: Literal["message", "notice"]
    user: str | None
    name: str | None
    text: str | None
    level: str | None
    ts: datetime
    deleted_by: str | None


async def listing(call: Call[Paged, None]) -> web.Response:
    """Rooms, by id."""
    query = call.query
    rooms = await list_rooms(call.bridge, after=query.after(str) or "", limit=query.limit + 1)
    kept = rooms[: query.limit]
    return reply(page([_view(room) for room in kept], cursor_of(kept[-1].id) if len(rooms) > len(kept) else None))


async def show(call: Call[NoQuery, None]) -> web.Response:
    """One room."""
    id = _id(call.part("id"))
    room = await read_room(call.bridge, id)
    if room is None:
        raise not_found(f"room {id}")
    return reply(_view(room))


async def history(call: Call[Paged, None]) -> web.Response:
    """What was said in a room and not forgotten yet, newest first."""
    id, query = _id(call.part("id")), call.query
    found = await read_history(call.bridge, id, before=query.after(int), limit=query.limit + 1)
    if not found and query.cursor is None and await read_room(call.bridge, id) is None:
        raise not_found(f"room {id}")
    kept = found[: query.limit]
    more = len(found) > len(kept)
    return reply(page([_history(item) for item in kept], cursor_of(kept[-1].offset) if more else None))


def _id(given: str) -> str:
    if not ROOM_ID.fullmatch(given):
        raise not_found(f"room {given[:80]!r}")
    return given


def _view(room: RoomInfo) -> RoomView:
    return RoomView(room.id, room.title, room.state, room.slow_mode_s, room.members)


def _history(item: HistoryItem) -> HistoryView:
    return HistoryView(item.message_id, item.offset, item.kind, item.user, item.name, item.text, item.level,
                       time_of(item.ts), item.deleted_by)  # fmt: skip


def published(publication: Publication) -> dict[str, Any]:
    """What is published in a room as live events tell it: messages and notices as in its history."""
    ts = time_of(publication.at)
    place = {"type": publication.type, "epoch": publication.epoch, "offset": publication.offset, "ts": ts}
    item = history_item(publication, {})
    if item is not None:
        return place | asdict(_history(item))
    match content_of(publication):
        case Deleted(message_ids):
            return {**place, "message_ids": message_ids, "deleted_by": publication.data.get("by")}
        case RoomChanged(state, slow_mode_s, title):
            return {**place, "state": state, "slow_mode_s": slow_mode_s, "title": title}
        case _:
            return {**place, "data": publication.data}


ROUTES = (
    Route("GET", "/rooms", listing, Role.VIEWER, {200: ListOf(RoomView)}, query=Paged),
    Route("GET", "/rooms/{id}", show, Role.VIEWER, {200: RoomView}, problems=("not_found",)),
    Route("GET", "/rooms/{id}/history", history, Role.VIEWER, {200: ListOf(HistoryView)}, query=Paged,
          problems=("not_found",)),
)  # fmt: skip
