"""Rooms: which there are."""

from __future__ import annotations

from aiohttp import web

from backoffice.api import rooms
from backoffice.operators import Role
from backoffice.paging import Paged
from backoffice.ui import room
from backoffice.ui.acts import why_not
from backoffice.ui.frame import FOLDERS, Page, add_page, page_of, query_of


async def show(page: Page) -> web.StreamResponse:
    if id := page.given("id"):
        if id not in FOLDERS:
            raise web.HTTPSeeOther(page_of(id, "rooms"))
        return await room.show_one(page, id)
    found = await page.ask(rooms.listing, query_of(Paged, {"limit": 100, "cursor": page.given("cursor")}))
    return page.render("rooms.html", found=found, why=why_not(page, Role.OPERATOR))


def add_to(app: web.Application) -> None:
    add_page(app, "/rooms", show)
