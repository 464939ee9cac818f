"""One room: who is in it, what is said as it is said, and what a moderator can do about it."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from backoffice.api import rooms
from backoffice.paging import Paged
from backoffice.ui.acts import Act, command
from backoffice.ui.frame import Page, add_page, query_of
from bridge.chat.state import Member, read_members

SHOWN = 50
MEMBERS = 200  # of whom the page shows no more
_BY_STATE = {"open": ("freeze", "close"), "frozen": ("unfreeze", "close"), "closed": ("open",)}


async def show(page: Page) -> web.StreamResponse:
    return await show_one(page, page.part("id"))


async def show_one(page: Page, id: str) -> web.StreamResponse:
    query = query_of(Paged, {"limit": SHOWN, "cursor": page.given("cursor")})
    room, history = await asyncio.gather(page.ask(rooms.show, id=id), page.ask(rooms.history, query, id=id))
    members = {member.user: member for member in await read_members(page.bridge, id)}
    subject = f"room:{id}"
    verbs = (*_BY_STATE[room["state"]], "slow_mode", "clear")
    acts = [command(page, "notice.post", subject), *(command(page, f"room.{verb}", subject) for verb in verbs)]
    return page.render(
        "room.html",
        room=room,
        history=history,
        first=not page.given("cursor"),
        members=_sorted(members)[:MEMBERS],
        further=max(0, len(members) - MEMBERS),
        acts=acts,
        of_user=lambda user: of_user(page, id, user),
        of_message=lambda item: of_message(page, id, item),
        topics=f"{subject},alarms",
        subject=subject,
    )


def of_user(page: Page, room: str, user: str) -> list[Act]:
    """What can be done about a member."""
    return [
        command(page, f"member.{verb}", f"room:{room}", {"user": user}, user=user) for verb in ("mute", "kick", "ban")
    ]


def of_message(page: Page, room: str, item: dict[str, Any]) -> list[Act]:
    """What can be done about a message and who wrote it."""
    acts = [] if item["user"] is None else of_user(page, room, item["user"])
    if item["deleted_by"] is None:
        acts.append(command(page, "message.delete", f"room:{room}", {"message_ids": [item["message_id"]]}))
    return acts


def _sorted(members: dict[str, Member]) -> list[Member]:
    return sorted(members.values(), key=lambda member: member.name.casefold())


def add_to(app: web.Application) -> None:
    add_page(app, "/rooms/{id}", show)
