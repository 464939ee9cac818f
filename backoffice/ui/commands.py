"""Commands: one search box with qualifiers, newest first, following what ends."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from backoffice.api import search
from backoffice.problems import Fault, Problem, invalid
from backoffice.ui.command import mark_lost
from backoffice.ui.frame import Page, add_page, query_of
from bridge.envelope import COMMAND_ID

PAGE = 50
QUALIFIERS = ("type", "subject", "user", "by", "node", "state", "since", "until")
_PART = re.compile(r'(?:(\w+):)?("[^"]*"|\S+)')


def parse(text: str) -> dict[str, str]:
    """``type:member.mute by:ann spam`` as parameters of the API's search; ``id`` may be among them. Raises Problem."""
    found: dict[str, str] = {}
    words: list[str] = []
    for name, quoted in _PART.findall(text):
        if name in QUALIFIERS or name == "id":
            found[name] = quoted.strip('"')
        elif name:
            known = ", ".join(f"{each}:" for each in (*QUALIFIERS, "id"))
            raise invalid([Fault("?q", "unknown_qualifier", f"{name}: is none of {known}")])
        else:
            words.append(quoted.strip('"'))
    return found | ({"text": " ".join(words)} if words else {})


def _id(given: str) -> str:
    if not COMMAND_ID.fullmatch(given):
        raise invalid([Fault("?q", "command_id", "a command's id looks like 7-1795301838720-41")])
    return given


async def show(page: Page) -> web.StreamResponse:
    text, problem = page.given("q"), None
    answer: dict[str, Any] = {
        "items": [], "next_cursor": None, "complete": True, "searched_until": None, "rebuilt": 1,
    }  # fmt: skip
    try:
        wanted = parse(text)
        if "id" in wanted:
            raise web.HTTPSeeOther(f"/commands/{_id(wanted['id'])}")
        query = query_of(search.CommandQuery, {**wanted, "limit": PAGE, "cursor": page.given("cursor")})
        answer = await page.ask(search.listing, query)
        mark_lost(page, answer["items"])
    except Problem as met:
        if met.status != 422:
            raise
        problem = met
    return page.render(
        "commands.html",
        q=text,
        found=answer,
        problem=problem,
        first=not page.given("cursor"),
        topics="commands,alarms",
        status=200 if problem is None else 422,
    )


def add_to(app: web.Application) -> None:
    add_page(app, "/commands", show)
