"""Who may do what: every route with every role, and every command type with every role."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from backoffice.app import routes
from backoffice.config import BackofficeSettings
from backoffice.openapi import route as document_route
from backoffice.operators import Role, role_to_issue
from bridge.registry import CommandType, Registry, default
from tests.backoffice.service import CHAT_KEY, Api

ROLES = ("viewer", "moderator", "operator", "admin")
EXAMPLES = {"id": "1-1-1", "name": "node-a", "shard": "0"}
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


def test_every_route_is_in_the_matrix() -> None:
    config = BackofficeSettings(api_tokens=SecretStr("a:admin:0123456789abcdef"), demo_chat_key=SecretStr(CHAT_KEY))
    found = routes(config)
    assert {f"{r.method} {r.path}" for r in (*found, document_route(found, default))} == set(LEAST)


@pytest.mark.parametrize("route", LEAST)
async def test_a_role_opens_a_route_or_is_forbidden(api: Api, route: str) -> None:
    method, path = route.format(**EXAMPLES).split()
    least = LEAST[route]
    for role in (None, *ROLES):
        answer = await api.as_(role).call(method, path)
        if least is None:
            assert answer.status == 415  # it gets as far as the body
        elif role is None:
            assert (answer.status, answer.json["code"]) == (401, "unauthorized")
        elif ROLES.index(role) < ROLES.index(least):
            assert (answer.status, answer.json["code"]) == (403, "forbidden")
        else:
            assert answer.status not in (401, 403)
            assert answer.status < 500


@pytest.mark.parametrize("type_", [known.name for known in default.types() if not known.plugin])
async def test_a_role_may_issue_a_type_or_is_forbidden(api: Api, type_: str) -> None:
    known = default.get(type_)
    payloads: dict[str, dict[str, Any]] = {
        "member.": {"user": "u7"},
        "message.delete": {"message_ids": ["1-abcdef"]},
        "notice.post": {"text": "x"},
        "user.warn": {"text": "x"},
        "room.slow_mode": {"seconds": 5},
    }
    payload = next((value for prefix, value in payloads.items() if type_.startswith(prefix)), {})
    for role in ROLES:
        least = "moderator" if type_ in MODERATION else "operator"
        forbidden = ROLES.index(role) < ROLES.index(least)
        answer = await api.as_(role).issue(type_, f"{known.subject}:x1", payload)
        assert answer.status == (403 if forbidden else 202), answer.body
        batch = {"commands": [{"type": type_, "subject": f"{known.subject}:x1", "payload": payload}]}
        answer = await api.as_(role).post("/commands/batch", batch)
        status = answer.status if role == "viewer" else answer.json["results"][0]["status"]
        assert status == (403 if forbidden else 202)


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
