"""Dead letters: groups by cause, and sending again or throwing away many at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from backoffice.api import dead_letters
from backoffice.ui.acts import Act, call, reason
from backoffice.ui.frame import Page, add_page, query_of
from backoffice.ui.words import N_
from bridge.dead_letters import CODES

_FILTER = ("type", "subject", "code", "requeued")
PAGE = 100
A_CALL = 100  # sent again by one call, which has to end in time on a slow disk too


async def show(page: Page) -> web.StreamResponse:
    given = {name: page.given(name) for name in _FILTER}
    wanted = {name: value for name, value in given.items() if value}
    query = query_of(dead_letters.DeadQuery, {**wanted, "limit": PAGE, "cursor": page.given("cursor")})
    found = await page.ask(dead_letters.listing, query)
    every = await page.bridge.dead.page(
        limit=dead_letters.MAX_BULK, type=query.type, subject=query.subject, code=query.code, requeued=query.requeued
    )
    groups = Counter((letter.cause_code, letter.type or "–") for letter in every.items)
    return page.render(
        "dead_letters.html",
        found=found,
        wanted=given,
        query=query,
        groups=groups.most_common(12),
        count=len(every.items),
        more=every.next_cursor is not None,
        acts=_bulk(page, query, len(every.items), more=every.next_cursor is not None) if every.items else [],
        codes=CODES,
        topics="commands,alarms",
    )


def _bulk(page: Page, query: dead_letters.DeadQuery, count: int, *, more: bool) -> list[Act]:
    words, wanted = page.words, query.model_dump(include=set(_FILTER), exclude_defaults=True)
    told = [words("sent again") if name == "requeued" else f"{name}: {value}" for name, value in wanted.items()]
    which = ", ".join(told) or words("without a filter")
    common: dict[str, Any] = {"body": {"filter": wanted, "limit": A_CALL},
                              "fields": [reason(words, required=True)], "bulk": True}  # fmt: skip
    again, away = N_("Send {n} dead letters again ({filter})?"), N_("Throw {n} dead letters away for good ({filter})?")
    if more:
        again = N_("Send all dead letters again ({filter})? There are more than {n}.")
        away = N_("Throw all dead letters away for good ({filter})? There are more than {n}.")
    requeue = call(page, words("Requeue"), words(again, n=count, filter=which), "POST", "/dead/requeue",
                   selected=words("Send the selected dead letters again?"), **common)  # fmt: skip
    return [
        *([] if query.requeued else [requeue]),
        call(page, words("Discard"), words(away, n=count, filter=which), "POST", "/dead/discard", danger=True,
             typed=words("discard"), selected=words("Throw the selected dead letters away for good?"), **common),
    ]  # fmt: skip


def add_to(app: web.Application) -> None:
    add_page(app, "/dead", show)
