"""Who may do what: every route with every role, and every command type with every role."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backoffice.app import make_app
from backoffice.operators import Role, role_to_issue
from backoffice.passwords import Passwords
from backoffice.people import People
from backoffice.records import Records
from backoffice.routes import PREFIX
from bridge.chat.events import BROADCASTS
from bridge.config import BridgeSettings
from bridge.registry import CommandType, Registry, default
from tests.backoffice.service import PASSWORD, TOKENS, Answer, Api, make_settings

ROLES = ("viewer", "moderator", "operator", "admin")
EXAMPLES = {"id": "1-1-1", "name": "node-a", "shard": "0", "code": "forbidden", "digest": "0"}
MODERATION = {"member.mute", "member.unmute", "member.ban", "member.unban", "member.kick", "message.delete",
              "notice.post", "user.warn"}  # fmt: skip

# What the documentation promises; nothing of it is read off the code.
LEAST = {
    "GET /openapi.json": "viewer",
    "GET /commands/{id}": "viewer",
    "POST /commands": "moderator",
    "POST /commands/batch": "moderator",
    "DELETE /commands/{id}": "moderator",
    "POST /broadcasts": "operator",
    "GET /nodes": "viewer",
    "POST /nodes/{name}/drain": "operator",
    "DELETE /nodes/{name}/drain": "operator",
    "GET /self-check": "viewer",
    "GET /shards": "viewer",
    "GET /shards/{shard}/pending": "viewer",
    "GET /dead": "viewer",
    "GET /dead/{id}": "viewer",
    "POST /dead/requeue": "operator",
    "POST /dead/discard": "operator",
    "GET /rooms": "viewer",
    "GET /rooms/{id}": "viewer",
    "GET /rooms/{id}/history": "viewer",
    "GET /users/{id}": "viewer",
    "GET /sanctions": "viewer",
    "GET /chat-token": "admin",
    "POST /session": None,
    "GET /session": "viewer",
    "DELETE /session": "viewer",
    "POST /session/password": "viewer",
    "GET /operators": "admin",
    "POST /operators": "admin",
    "PATCH /operators/{name}": "admin",
    "GET /tokens": "admin",
    "POST /tokens": "admin",
    "DELETE /tokens/{id}": "admin",
    "GET /audit": "viewer",
    "GET /audit/heads": "viewer",
    "GET /commands": "viewer",
    "GET /export": "viewer",
    "GET /alarms": "viewer",
    "GET /series": "viewer",
    "GET /live": "viewer",
}


# Pages take a session, and programs' tokens do not open them.
PAGES = {
    "/": "viewer",
    "/commands": "viewer",
    "/commands/new": "viewer",
    "/commands/{id}": "viewer",
    "/rooms": "viewer",
    "/rooms/{id}": "viewer",
    "/users": "viewer",
    "/users/{id}": "viewer",
    "/sanctions": "viewer",
    "/announce": "viewer",
    "/dead": "viewer",
    "/dead/{id}": "viewer",
    "/nodes": "viewer",
    "/shards": "viewer",
    "/shards/{shard}": "viewer",
    "/audit": "viewer",
    "/system": "viewer",
    "/password": "viewer",
    "/access": "admin",
}
FORMS = {"/login": None, "/preferences": None, "/password": "viewer", "/logout": "viewer"}
FOR_EVERYBODY = {"/login", "/login/provider", "/login/provider/back", "/healthz", "/readyz", "/metrics",
                 "/problems/{code}", "/assets/{digest}/{name}"}  # fmt: skip
BEFORE_CHANGE = {"POST /session", "GET /session", "DELETE /session", "POST /session/password", "GET /password",
                 "POST /password", "POST /logout"}  # fmt: skip
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
SAME = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Somebody:
    """A caller: nobody, a token, or a session; ``new`` has to choose a password first."""

    name: str
    role: str | None
    headers: Mapping[str, str]
    session: bool = False
    new: bool = False

    def reaches(self, least: str) -> bool:
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(least)


NOBODY = Somebody("-", None, SAME)
STRANGER = Somebody("-", None, {**SAME, "Authorization": "Bearer nobody-knows-this-one"})
PROGRAMS = [Somebody(role, role, {**SAME, "Authorization": f"Bearer {TOKENS[role]}"}) for role in ROLES]


async def operators(api: Api) -> list[Somebody]:
    """One of each role, logged in, and an admin who has to choose a password."""
    found = []
    async with Records.open(f"sqlite+aiosqlite:///{api.database}") as records:
        people = People(records, Passwords())
        for number, role in enumerate((*ROLES, "admin")):
            name, new = f"operator-{number}", number == len(ROLES)
            await people.add(name, Role[role.upper()], PASSWORD, must_change=new)
            entered = await people.log_in(name, PASSWORD, address="", agent="")
            assert entered is not None
            found.append(Somebody(name, role, {**SAME, "Cookie": f"session={entered[0]}"}, session=True, new=new))
    return found


def table(settings: BridgeSettings, **options: Any) -> dict[str, dict[str, str]]:
    """For an example of every path that the service has: its methods, and the path as registered that takes each."""
    resources = list(make_app(make_settings("sqlite+aiosqlite://", **options), settings).router.resources())
    examples = [re.sub(r"{(\w+)}", lambda part: EXAMPLES[part[1]], each.canonical) for each in resources]
    found: dict[str, dict[str, str]] = {example: {} for example in examples}
    for example, resource in itertools.product(found, resources):
        info = resource.get_info()
        if info["pattern"].fullmatch(example) if "pattern" in info else info["path"] == example:
            for route in resource:
                found[example].setdefault(route.method, resource.canonical)
    return found


def test_every_route_has_its_rule(bridge_settings: BridgeSettings) -> None:
    options = {"oidc_issuer": "https://x", "oidc_client_id": "office", "oidc_roles": "groups:a=admin"}
    takes = table(bridge_settings, **options).values()
    found = {f"{method} {path}" for each in takes for method, path in each.items()}
    ruled = {f"{method} {PREFIX}{path}" for method, path in map(str.split, LEAST)}
    ruled |= {f"GET {path}" for path in (*PAGES, *FOR_EVERYBODY)} | {f"POST {path}" for path in FORMS}
    ruled |= {rule.replace("GET", "HEAD", 1) for rule in ruled if rule.startswith("GET ")}
    assert found == ruled


def fits(method: str, path: str, who: Somebody, answer: Answer) -> bool:
    """Whether this is what the documentation promises this caller; how a request without a body fails is not said."""
    status, to = answer.status, answer.headers.get("Location", "")
    method = "GET" if method == "HEAD" else method
    if not path.startswith(PREFIX):
        if (method, path) == ("GET", "/login"):
            return (status, to) == (303, "/") if who.session else status == 200
        if path in FOR_EVERYBODY or (method == "POST" and FORMS[path] is None):
            return status in (200, 404, 413, 415)
        if not who.session:
            return status == 303 and to.startswith("/login?")
        if who.new and f"{method} {path}" not in BEFORE_CHANGE:
            return (status, to) == (303, "/password")
        least = PAGES[path] if method == "GET" else "viewer"
        return status in (200, 404, 413, 415) if who.reaches(least) else status == 403
    rule = f"{method} {path.removeprefix(PREFIX)}"
    if who is STRANGER or (who is NOBODY and LEAST[rule] is not None):
        return status == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    if (who.new and rule not in BEFORE_CHANGE) or not (LEAST[rule] is None or who.reaches(LEAST[rule])):
        return status == 403
    return status not in (401, 403) and status < 500


async def test_no_cell_of_route_method_and_role_is_wrong(api: Api, bridge_settings: BridgeSettings) -> None:
    nobody, refused, wrong = api.as_(None), Counter[tuple[str, str, str]](), []
    everybody = [NOBODY, STRANGER, *PROGRAMS, *(await operators(api))]
    for example, takes in table(bridge_settings).items():
        for method, who in itertools.product(METHODS, everybody):
            if who.session and method not in takes:
                continue  # who calls is not looked at there, as tokens show
            # Logging out for good would be in the way of what comes after it.
            query = "?everywhere=perhaps" if (method, example) == ("DELETE", f"{PREFIX}/session") else ""
            answer = await nobody.call(method, f"/{example}{query}", headers=who.headers, redirects=False)
            if method not in takes:
                good = answer.status == 405 and answer.headers["Allow"] == ", ".join(sorted(takes))
            else:
                good = fits(method, takes[method], who, answer)
            if not good or any(name.startswith("Access-Control") for name in answer.headers):
                wrong.append((method, example, who.name, answer.status))
            changes, below_api = method not in ("GET", "HEAD"), example.startswith(PREFIX)
            told_of = {401: changes, 403: changes or below_api}
            if method in takes and told_of.get(answer.status):
                code = "unauthorized" if answer.status == 401 else "forbidden"
                refused[who.name, example.removeprefix(PREFIX), f"refused {code}"] += 1
    assert wrong == []
    assert set(refused) >= {("viewer", "/broadcasts", "refused forbidden"), ("-", "/tokens", "refused unauthorized"),
                            ("viewer", "/chat-token", "refused forbidden")}  # fmt: skip
    assert refused <= await told(api)


async def told(api: Api) -> Counter[tuple[str, str, str]]:
    """Who wanted what, and what came of it, as the audit chain has it."""
    found: Counter[tuple[str, str, str]] = Counter()
    cursor = ""
    while cursor is not None:
        page = (await api.get(f"/audit?limit=500{cursor and f'&cursor={cursor}'}")).json
        found.update((entry["by"], entry["target"], entry["result"]) for entry in page["items"])
        cursor = page["next_cursor"]
    return found


def payload_for(type_: str) -> dict[str, Any]:
    payloads: dict[str, dict[str, Any]] = {
        "member.": {"user": "u7"},
        "message.delete": {"message_ids": ["1-abcdef"]},
        "notice.post": {"text": "x"},
        "user.warn": {"text": "x"},
        "room.slow_mode": {"seconds": 5},
    }
    return next((value for prefix, value in payloads.items() if type_.startswith(prefix)), {})


async def test_no_cell_of_command_type_and_role_is_wrong(api: Api) -> None:
    """Issued alone, in a batch, and cancelled."""
    wrong = []
    known = [known for known in default.types() if not known.plugin]
    assert {each.name for each in known} >= MODERATION
    for each, role in itertools.product(known, (None, *ROLES)):
        caller, least = api.as_(role), "moderator" if each.name in MODERATION else "operator"
        body = {"type": each.name, "subject": f"{each.subject}:x1", "payload": payload_for(each.name)}
        alone = (await caller.post("/commands", body)).status
        many = await caller.post("/commands/batch", {"commands": [body]})
        batch = many.json["results"][0]["status"] if many.status == 207 else many.status
        issued = (await api.post("/commands", body)).json["id"]
        cancelled = (await caller.delete(f"/commands/{issued}")).status
        if role is None:
            expected = 401, 401, 401
        else:
            expected = (202, 202, 200) if ROLES.index(role) >= ROLES.index(least) else (403, 403, 403)
        if (alone, batch, cancelled) != expected:
            wrong.append((each.name, role, alone, batch, cancelled))
    assert wrong == []


async def test_no_cell_of_broadcast_type_and_role_is_wrong(api: Api) -> None:
    payloads = {"notice.flash": {"text": "x", "level": "info", "seconds": 5}, "config.reload": {},
                "cache.drop": {"what": "rooms"}}  # fmt: skip
    assert set(payloads) == set(BROADCASTS)
    wrong = []
    for (type_, payload), role in itertools.product(payloads.items(), (None, *ROLES)):
        body = {"type": type_, "scope": "all", "payload": payload}
        status = (await api.as_(role).post("/broadcasts", body)).status
        if status != (401 if role is None else 202 if role in ("operator", "admin") else 403):
            wrong.append((type_, role, status))
    assert wrong == []


async def test_a_role_is_checked_before_the_payload_is(api: Api) -> None:
    answer = await api.as_("moderator").issue("room.close", "user:x", {"nonsense": 1}, wrong=1)
    assert answer.status == 403


async def test_a_moderator_cancels_what_a_moderator_may_issue(api: Api) -> None:
    kick = (await api.issue("member.kick", "room:lobby", {"user": "u7"})).json["id"]
    close = (await api.issue("room.close", "room:lobby", {})).json["id"]
    moderator = api.as_("moderator")
    assert (await moderator.delete(f"/commands/{close}")).status == 403
    assert (await moderator.delete(f"/commands/{kick}")).status == 200
    assert (await api.as_("operator").delete(f"/commands/{close}")).status == 200


async def test_the_callers_name_is_who_issued_it(api: Api) -> None:
    id = (await api.as_("moderator").issue("member.kick", "room:lobby", {"user": "u7"})).json["id"]
    assert (await api.get(f"/commands/{id}")).json["issued_by"] == "moderator"


def test_a_plugins_command_takes_an_operator_whatever_its_name() -> None:
    registry = Registry()
    for known in default.types():
        registry.command(known.name, subject=known.subject, plugin=True)(known.model)
    assert {role_to_issue(known) for known in registry.types()} == {Role.OPERATOR}


def test_prefixes_are_whole_words() -> None:
    one = default.get("member.mute")
    lookalike = CommandType("membership.end", "room", one.model, one.adapter, plugin=False)
    assert role_to_issue(lookalike) is Role.OPERATOR
