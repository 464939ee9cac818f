"""Dead letters: groups by cause, and sending again or throwing away many at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from backoffice.api import dead_letters
from backoffice.ui.acts import Act, call, reason
from backoffice.ui.frame import Page, add_page, query_of

_FILTER = ("type", "subject", "code")


async def show(page: Page) -> web.StreamResponse:
    given = {name: page.given(name) for name in _FILTER}
    wanted = {name: value for name, value in given.items() if value}
    query = query_of(dead_letters.DeadQuery, {**wanted, "limit": 100, "cursor": page.given("cursor")})
    found = await page.ask(dead_letters.listing, query)
    every = await page.bridge.dead.page(
        limit=dead_letters.MAX_BULK, type=query.type, subject=query.subject, code=query.code
    )
    groups = Counter((letter.cause_code, letter.type or "–") for letter in every.items)
    return page.render(
        "dead_letters.html",
        found=found,
        wanted=given,
        groups=groups.most_common(12),
        count=len(every.items),
        most=dead_letters.MAX_BULK,
        acts=_bulk(page, wanted, len(every.items)) if every.items else [],
    )


def _bulk(page: Page, wanted: dict[str, Any], count: int) -> list[Act]:
    words = page.words
    which = ", ".join(f"{name}: {value}" for name, value in wanted.items()) or words("without a filter")
    common: dict[str, Any] = {"body": {"filter": wanted}, "fields": [reason(words, required=True)], "selected": True}
    again = words("Send {n} dead letters again ({filter}), or those that are selected.", n=count, filter=which)
    away = words("Throw {n} dead letters away for good ({filter}), or those that are selected.", n=count, filter=which)
    return [
        call(page, words("Requeue"), again, "POST", "/dead/requeue", **common),
        call(page, words("Discard"), away, "POST", "/dead/discard", danger=True, typed=words("discard"), **common),
    ]


def add_to(app: web.Application) -> None:
    add_page(app, "/dead", show)
