"""Shards: who reads each, what waits there, and what is in hand."""

from __future__ import annotations

from aiohttp import web

from backoffice.api import shards
from backoffice.paging import Paged, cursor_of
from backoffice.ui.frame import Page, add_page, query_of

PENDING = 200  # commands in hand that one page shows


async def show(page: Page) -> web.StreamResponse:
    found = await page.ask(shards.listing, query_of(Paged, {"limit": 500, "cursor": page.given("cursor")}))
    return page.render("shards.html", found=found, topics="shards,alarms")


async def show_one(page: Page) -> web.StreamResponse:
    number = page.part("shard")
    query = query_of(Paged, {"limit": PENDING, "cursor": page.given("cursor")})
    pending = await page.ask(shards.pending, query, shard=number)
    found = await page.ask(shards.listing, query_of(Paged, {"limit": 1, "cursor": cursor_of(int(number) - 1)}))
    shard = next((each for each in found["items"] if each["shard"] == int(number)), None)
    return page.render("shard.html", number=number, shard=shard, pending=pending, topics="sample,alarms")


def add_to(app: web.Application) -> None:
    add_page(app, "/shards", show)
    add_page(app, r"/shards/{shard:\d+}", show_one)
