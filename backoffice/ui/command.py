"""One command: where it stands, how it came there, and what can still be done about it."""

from __future__ import annotations

import orjson
from aiohttp import web

from backoffice.api import commands
from backoffice.ui.acts import VERBS, Act, call, command, issuing_role
from backoffice.ui.frame import Page, add_page

OPEN = ("accepted", "scheduled")


async def show(page: Page) -> web.StreamResponse:
    told = await page.ask(commands.show, id=page.part("id"))
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


def _pretty(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def add_to(app: web.Application) -> None:
    add_page(app, r"/commands/{id:\d+-\d+-\d+}", show)
