"""Sanctions: every mute and ban that holds now, with its end."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from backoffice.api import sanctions
from backoffice.paging import Paged
from backoffice.ui.acts import Act, command
from backoffice.ui.frame import Page, add_page, query_of


async def show(page: Page) -> web.StreamResponse:
    found = await page.ask(sanctions.listing, query_of(Paged, {"limit": 100, "cursor": page.given("cursor")}))
    topics = "commands,sample,alarms"
    return page.render("sanctions.html", found=found, lift=lambda each: lift(page, each), topics=topics)


def lift(page: Page, sanction: dict[str, Any]) -> Act:
    """The button that ends a sanction."""
    user, room = sanction["user"], sanction["room"]
    if room is None:
        return command(page, f"user.un{sanction['kind']}", f"user:{user}")
    return command(page, f"member.un{sanction['kind']}", f"room:{room}", {"user": user}, user=user)


def add_to(app: web.Application) -> None:
    add_page(app, "/sanctions", show)
