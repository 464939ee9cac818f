"""Users: find one; those with something against them."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from backoffice.api import sanctions
from backoffice.paging import Paged
from backoffice.ui.frame import Page, add_page, query_of

SANCTIONS = 200  # whose users one page shows


async def show(page: Page) -> web.StreamResponse:
    if id := page.given("id"):
        raise web.HTTPSeeOther(f"/users/{quote(id.removeprefix('user:'))}")
    found = await page.ask(sanctions.listing, query_of(Paged, {"limit": SANCTIONS, "cursor": page.given("cursor")}))
    users = sorted({item["user"] for item in found["items"]})
    return page.render("users.html", users=users, next_cursor=found["next_cursor"])


def add_to(app: web.Application) -> None:
    add_page(app, "/users", show)
