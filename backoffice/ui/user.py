"""One user: what holds against them, where they are connected, and every command about them."""

from __future__ import annotations

import asyncio

from aiohttp import web

from backoffice.api import search, users
from backoffice.ui.acts import command
from backoffice.ui.command import mark_lost
from backoffice.ui.frame import Page, add_page, query_of
from backoffice.ui.sanctions import lift

_VERBS = ("warn", "mute", "kick", "ban")


async def show(page: Page) -> web.StreamResponse:
    return await show_one(page, page.part("id"))


async def show_one(page: Page, id: str) -> web.StreamResponse:
    query = query_of(search.CommandQuery, {"user": id, "limit": 30})
    user, history = await asyncio.gather(page.ask(users.show, id=id), page.ask(search.listing, query))
    mark_lost(page, history["items"])
    return page.render(
        "user.html",
        user=user,
        history=history,
        acts=[command(page, f"user.{verb}", f"user:{id}") for verb in _VERBS],
        lift=lambda sanction: lift(page, sanction),
        topics="commands,sample,alarms",
    )


def add_to(app: web.Application) -> None:
    add_page(app, "/users/{id}", show)
