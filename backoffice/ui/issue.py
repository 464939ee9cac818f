"""Issue a command: a form made from its schema, for plugins' commands as for the chat's own."""

from __future__ import annotations

import inspect
from typing import Any

from aiohttp import web

from backoffice.operators import Role
from backoffice.ui.acts import form, issuing_role, why_not
from backoffice.ui.forms import inputs
from backoffice.ui.frame import Page, add_page
from bridge.errors import UnknownType


async def show(page: Page) -> web.StreamResponse:
    registry = page.bridge.registry
    types = [each for each in registry.types() if page.caller.role >= issuing_role(page, each.name)]
    wanted = page.given("type")
    try:
        chosen = registry.get(wanted) if wanted else None
    except UnknownType:
        chosen = None
    context: dict[str, Any] = {}
    if chosen is not None:
        subject = page.given("subject") or f"{chosen.subject}:"
        context = {
            "inputs": inputs(chosen.model, page.request.query),
            "subject": subject,
            "about": inspect.getdoc(chosen.model) or "",
            "form": form(page, chosen.name),
            "why": why_not(page, issuing_role(page, chosen.name)),
        }
    none = why_not(page, Role.MODERATOR)
    return page.render("issue.html", types=types, chosen=chosen, none=none, **context)


def add_to(app: web.Application) -> None:
    add_page(app, "/commands/new", show)
