"""One command: where it stands, how it came there, and what can still be done about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import orjson
from aiohttp import web

from backoffice.api import commands
from backoffice.api.command_views import plain
from backoffice.problems import Problem, not_found
from backoffice.routes import HISTORY, Call, reply
from backoffice.ui.acts import VERBS, Act, call, command, issuing_role
from backoffice.ui.frame import Page, add_page

OPEN = ("accepted", "scheduled")


async def show(page: Page) -> web.StreamResponse:
    told = await _told(page, page.part("id"))
    acts: list[Act] = []
    words, type, subject = page.words, told["type"], told["subject"]
    if told["state"] in OPEN:
        acts.append(call(page, words("Cancel the command"), words("Cancel it? No node has begun it."), "DELETE",
                         f"/commands/{told['id']}", least=issuing_role(page, type), danger=True))  # fmt: skip
    verb = VERBS.get(type)
    if told["state"] == "done" and verb is not None and verb.undo is not None:
        user = told["payload"].get("user")
        shown = {} if user is None else {"user": user}
        acts.append(command(page, verb.undo, subject, shown, **shown))
    return page.render(
        "command.html",
        command=told,
        acts=acts,
        pretty=_pretty,
        user=told["payload"].get("user") if isinstance(told["payload"], dict) else None,
        topics="commands,alarms",
    )


def mark_lost(page: Page, shown: Iterable[dict[str, Any]]) -> None:
    """Commands that the history has as open, and no server knows any more, become ``unknown``."""
    missing = page.request.app[HISTORY].missing
    for told in shown:
        if told["state"] in OPEN and told["id"] in missing:
            told["state"] = "unknown"


async def _told(page: Page, id: str) -> dict[str, Any]:
    """What the API tells of it; of a lost one, which is not there for the API, what the history still has."""
    try:
        return cast(dict[str, Any], await page.ask(commands.show, id=id))
    except Problem as met:
        if met.status != 404:
            raise
    told: dict[str, Any] = await page.ask(_kept, id=id)
    mark_lost(page, [told])
    return told


async def _kept(call: Call[Any, None]) -> web.Response:
    outcome = await call.request.app[HISTORY].get(call.part("id"))
    if outcome is None:
        raise not_found(f"command {call.part('id')}")
    return reply(plain(outcome))


def _pretty(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def add_to(app: web.Application) -> None:
    add_page(app, r"/commands/{id:\d+-\d+-\d+}", show)
