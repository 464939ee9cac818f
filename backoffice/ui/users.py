"""Users: find one; those with something against them."""

from __future__ import annotations

from aiohttp import web

from backoffice.api import sanctions
from backoffice.paging import Paged
from backoffice.ui import user
from backoffice.ui.frame import FOLDERS, Page, add_page, page_of, query_of

SANCTIONS = 200  # whose users one page shows


async def show(page: Page) -> web.StreamResponse:
    if id := page.given("id"):
        id = id.removeprefix("user:")
        if id not in FOLDERS:
            raise web.HTTPSeeOther(page_of(id, "users"))
        return await user.show_one(page, id)
    found = await page.ask(sanctions.listing, query_of(Paged, {"limit": SANCTIONS, "cursor": page.given("cursor")}))
    users = sorted({item["user"] for item in found["items"]})
    return page.render("users.html", users=users, next_cursor=found["next_cursor"])


def add_to(app: web.Application) -> None:
    add_page(app, "/users", show)
