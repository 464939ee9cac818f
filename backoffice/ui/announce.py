"""Announce: something everybody sees now, or the nodes' upkeep."""

from __future__ import annotations

import orjson
from aiohttp import web

from backoffice.api import rooms
from backoffice.operators import Role
from backoffice.paging import Paged
from backoffice.routes import PREFIX, WATCH
from backoffice.ui.acts import call, why_not
from backoffice.ui.frame import Page, add_page, query_of

ROOMS = 500  # that the field offers; it takes the id of any


async def show(page: Page) -> web.StreamResponse:
    words = page.words
    found = await page.ask(rooms.listing, query_of(Paged, {"limit": ROOMS}))
    samples = page.request.app[WATCH].sampler.fine
    known = samples[-1].clients if samples else 0
    clients = "–" if known is None else known
    act = {"method": "POST", "path": f"{PREFIX}/broadcasts", "command": False, "label": words("Announce"),
           "body": {"type": "notice.flash", "scope": "all"}, "sentence": words("Show this to everybody in {what}?"),
           "to_all": words("Show this to everybody: {n} clients?", n=clients)}  # fmt: skip
    return page.render(
        "announce.html",
        offered=found["items"],
        clients=clients,
        form=orjson.dumps(act).decode(),
        why=why_not(page, Role.OPERATOR),
        upkeep=[
            call(page, words("Read word list and limits again"), words("Every node reads its word list and limits."),
                 "POST", "/broadcasts", body={"type": "config.reload", "scope": "all", "payload": {}}),
            call(page, words("Look again at who may stay"), words("Every node asks again who may be in its rooms."),
                 "POST", "/broadcasts", body={"type": "cache.drop", "scope": "all", "payload": {"what": "rooms"}}),
        ],
    )  # fmt: skip


def add_to(app: web.Application) -> None:
    add_page(app, "/announce", show)
