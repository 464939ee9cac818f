"""Access: operators and API tokens."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from backoffice.api import operators, tokens
from backoffice.operators import Role
from backoffice.paging import Paged
from backoffice.ui.acts import Act, call
from backoffice.ui.frame import Page, add_page, query_of

_NAME_CHARS = 64
SHOWN = 500  # operators, and tokens, that one page shows


async def show(page: Page) -> web.StreamResponse:
    everyone, made = await asyncio.gather(
        page.ask(operators.listing, query_of(Paged, {"limit": SHOWN, "cursor": page.given("cursor")})),
        page.ask(tokens.listing, query_of(Paged, {"limit": SHOWN, "cursor": page.given("tokens")})),
    )
    words = page.words
    add = call(page, words("New operator"), words("The password that is made up is shown once; they change it."),
               "POST", "/operators", fields=[_name(page), _role(page)], least=Role.ADMIN, show="password")  # fmt: skip
    make = call(page, words("New token"), words("For a program; what it issues carries this name."), "POST", "/tokens",
                fields=[_name(page), _role(page)], least=Role.ADMIN, show="token")  # fmt: skip
    return page.render(
        "access.html",
        operators=everyone,
        tokens=made,
        add=add,
        make=make,
        of_operator=lambda each: _of_operator(page, each),
        of_token=lambda each: _of_token(page, each),
    )


def _of_operator(page: Page, operator: dict[str, Any]) -> list[Act]:
    words, name = page.words, operator["name"]
    path = f"/operators/{name}"
    role = call(page, words("Role"), words("Another role for {name}; their sessions end.", name=name), "PATCH", path,
                fields=[_role(page, operator["role"])], least=Role.ADMIN)  # fmt: skip
    password = call(page, words("New password"), words("Make up a password for {name}? Their sessions end.", name=name),
                    "PATCH", path, body={"new_password": True}, least=Role.ADMIN, show="password")  # fmt: skip
    if operator["disabled"]:
        label, sentence = words("Enable"), words("Let {name} log in again?", name=name)
    else:
        label, sentence = words("Disable"), words("{name} may not log in any more; their sessions end.", name=name)
    able = call(page, label, sentence, "PATCH", path, body={"disabled": not operator["disabled"]}, least=Role.ADMIN,
                danger=not operator["disabled"])  # fmt: skip
    mine = name == page.caller.name  # their own password they choose at /password
    return [role, able] if mine else [role, password, able]


def _of_token(page: Page, token: dict[str, Any]) -> Act:
    words, name = page.words, token["name"]
    return call(page, words("Withdraw"), words("Whoever uses the token {name} is refused at once.", name=name),
                "DELETE", f"/tokens/{token['id']}", least=Role.ADMIN, danger=True, typed=name)  # fmt: skip


def _name(page: Page) -> dict[str, Any]:
    return {"into": "/name", "label": page.words("Name"), "kind": "text", "most": _NAME_CHARS, "required": True}


def _role(page: Page, value: str = "viewer") -> dict[str, Any]:
    choices = [(str(role), page.words(str(role))) for role in Role]
    return {"into": "/role", "label": page.words("Role"), "kind": "text", "choices": choices, "value": value}


def add_to(app: web.Application) -> None:
    add_page(app, "/access", show, Role.ADMIN)
