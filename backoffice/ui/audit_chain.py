"""Audit: who wanted what done, and what came of it."""

from __future__ import annotations

from aiohttp import web

from backoffice.api import audit
from backoffice.ui.frame import Page, add_page, query_of

PAGE = 50
_FILTER = ("by", "action", "target", "request_id")


async def show(page: Page) -> web.StreamResponse:
    wanted = {name: page.given(name) for name in _FILTER}
    found = await page.ask(
        audit.listing, query_of(audit.AuditQuery, {**wanted, "limit": PAGE, "cursor": page.given("cursor")})
    )
    return page.render("audit.html", found=found, wanted=wanted)


def add_to(app: web.Application) -> None:
    add_page(app, "/audit", show)
