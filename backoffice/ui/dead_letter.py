"""One dead letter: what it was, why it died, and sending it again, mended."""

from __future__ import annotations

import orjson
from aiohttp import web

from backoffice.api import dead_letters
from backoffice.operators import Role
from backoffice.routes import PREFIX
from backoffice.ui.acts import call, reason, why_not
from backoffice.ui.frame import Page, add_page


async def show(page: Page) -> web.StreamResponse:
    letter, words = await page.ask(dead_letters.show, id=page.part("id")), page.words
    id = letter["id"]
    act = {"method": "POST", "path": f"{PREFIX}/dead/requeue", "command": False, "label": words("Requeue"),
           "body": {"ids": [id]}, "bulk": True}  # fmt: skip
    away = call(page, words("Discard"), words("Throw this dead letter away for good?"), "POST", "/dead/discard",
                body={"ids": [id]}, fields=[reason(words, required=True)], danger=True,
                typed=words("discard"), bulk=True)  # fmt: skip
    return page.render(
        "dead_letter.html",
        letter=letter,
        form=orjson.dumps(act).decode(),
        payload=orjson.dumps(letter["payload"], option=orjson.OPT_INDENT_2).decode(),
        why=why_not(page, Role.OPERATOR),
        discard=away,
    )


def add_to(app: web.Application) -> None:
    add_page(app, r"/dead/{id:\d+-\d+-\d+}", show)
