"""All pages, and what their templates know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp_jinja2
import jinja2
from aiohttp import web
from markupsafe import Markup

from backoffice.config import BackofficeSettings
from backoffice.operators import Role
from backoffice.ui import (
    announce,
    assets,
    audit_chain,
    command,
    commands,
    dead_letter,
    dead_letters,
    issue,
    login,
    nodes,
    overview,
    people,
    room,
    rooms,
    sanctions,
    shards,
    single_sign_on,
    system,
    user,
    users,
)
from backoffice.ui.frame import Answer, nowhere, page_of
from backoffice.ui.words import AGO, AHEAD, N_, Words

NOWHERE: web.AppKey[Answer] = web.AppKey("nowhere")  # answers what no route does
PAGES = (assets, login, single_sign_on, overview, commands, issue, command, rooms, room, users, user, sanctions,
         announce, dead_letters, dead_letter, nodes, shards, audit_chain, people, system)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the navigation; ``key`` is the letter that leads there after g."""

    path: str
    title: str
    key: str
    role: Role = Role.VIEWER

    def holds(self, path: str) -> bool:
        return path == self.path or (self.path != "/" and path.startswith(f"{self.path}/"))


NAVIGATION = (
    Place("/", N_("Overview"), "o"),
    Place("/commands", N_("Commands"), "c"),
    Place("/rooms", N_("Rooms"), "r"),
    Place("/users", N_("Users"), "u"),
    Place("/sanctions", N_("Sanctions"), "s"),
    Place("/announce", N_("Announce"), "a"),
    Place("/dead", N_("Dead letters"), "d"),
    Place("/nodes", N_("Nodes"), "n"),
    Place("/shards", N_("Shards"), "h"),
    Place("/audit", N_("Audit"), "i"),
    Place("/access", N_("Access"), "x", Role.ADMIN),
    Place("/system", N_("System"), "y"),
)

# What the scripts say.
SAID = (
    N_("Live"), N_("connecting again"), N_("cannot be refreshed"), N_("Cancel"), N_("Close"), N_("Undo"), N_("Details"),
    N_("done"), N_("done on {node} in {ms} ms"), N_("{n} sessions"), N_("{n} of {all} nodes"),
    N_("no word from {nodes}"), N_("accepted"), N_("handling"), N_("retrying"), N_("rejected"), N_("expired"),
    N_("dead"), N_("cancelled"), N_("scheduled"), N_("Write {name} to go on"), N_("Try again"),
    N_("The server did not answer; nothing that you wrote is lost"), N_("Log in, in another tab"),
    N_("Your session has ended; nothing that you wrote is lost."), N_("Pause"), N_("Go on"),
    N_("Shown once: keep it now"), N_("unknown"), N_("{n} selected"), N_("Dry run"), N_("Nothing was done yet."),
    N_("{n} would be done"), N_("{n} done"), N_("{n} skipped ({code})"), N_("Stop"), N_("stopped"), N_("not found"),
    N_("already requeued"), N_("effects applied"), N_("too large"), N_("overloaded"), *AGO, *AHEAD,
)  # fmt: skip


def add_to(app: web.Application, settings: BackofficeSettings) -> None:
    app[system.SETTINGS] = settings
    aiohttp_jinja2.setup(
        app,
        loader=jinja2.PackageLoader("backoffice.ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment = aiohttp_jinja2.get_env(app)
    environment.filters.update(exact=exact, when=when, page_of=page_of)
    environment.globals.update(
        asset=f"{assets.BASE}/",
        navigation=NAVIGATION,
        said=said,
        themes=THEME_NAMES,
        languages=LANGUAGE_NAMES,
        provider=settings.oidc_issuer is not None,
    )
    for page in PAGES:
        page.add_to(app)
    app[NOWHERE] = nowhere(app)


THEME_NAMES = (("auto", N_("as the system")), ("light", N_("light")), ("dark", N_("dark")))
LANGUAGE_NAMES = (("en", "English"), ("ko", "한국어"))


def said(words: Words) -> Mapping[str, str]:
    return {text: words(text) for text in SAID} | dict(words.codes)


def exact(time: str | datetime) -> str:
    """A time in full, UTC."""
    at = datetime.fromisoformat(time) if isinstance(time, str) else time
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC"


@jinja2.pass_context
def when(context: Any, time: str | datetime | None) -> str:
    """A time as people say it, with the exact one behind."""
    if time is None:
        return "–"
    at = datetime.fromisoformat(time) if isinstance(time, str) else time
    iso = at.astimezone(UTC).isoformat(timespec="milliseconds")
    markup = Markup('<time datetime="{}" title="{}">{}</time>')
    return markup.format(iso, exact(at), context["_"].ago(at))
