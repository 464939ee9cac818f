"""The document against what programs outside rely on, written down here by hand: calls, statuses, fields, limits."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.registry import default
from tests.backoffice.service import Api

COMMAND = ("id type subject payload reason issued_by issued_at expires_at deliver_at idempotency_key origin "
           "requeued_as state node attempts timeline result error receipts missing_nodes")  # fmt: skip
ACCEPTED = "id type subject state duplicate idempotency_key"
BULK = "matched done skipped dry_run"
SANCTION = "kind room user since until reason by command_id shadow"
HISTORY = "message_id offset kind user name text level ts deleted_by"
DEAD = "id type subject payload raw cause attempts node at requeued_as"
NODE = "name boot version url state heartbeat_age_s shards sessions rooms types lag"
SHARD = "shard holder epoch length lag pending oldest_age_s dead handled_per_s"

# Call → status → fields; "items" begins a list's.
PROMISED: dict[str, dict[int, str]] = {
    "POST /commands": {202: ACCEPTED, 200: f"{COMMAND} duplicate"},
    "POST /commands/batch": {207: "results"},
    "GET /commands/{id}": {200: COMMAND},
    "DELETE /commands/{id}": {200: COMMAND},
    "GET /commands": {200: f"items {COMMAND}"},
    "POST /broadcasts": {202: "channel epoch offset"},
    "GET /nodes": {200: f"items {NODE}"},
    "POST /nodes/{name}/drain": {200: NODE},
    "DELETE /nodes/{name}/drain": {200: NODE},
    "GET /shards": {200: f"items {SHARD}"},
    "GET /shards/{shard}/pending": {200: "items id type subject node idle_s deliveries"},
    "GET /dead": {200: f"items {DEAD}"},
    "GET /dead/{id}": {200: DEAD},
    "POST /dead/requeue": {200: BULK},
    "POST /dead/discard": {200: BULK},
    "GET /rooms": {200: "items id title state slow_mode_s members"},
    "GET /rooms/{id}": {200: "id title state slow_mode_s members"},
    "GET /rooms/{id}/history": {200: f"items {HISTORY}"},
    "GET /users/{id}": {200: "id name sanctions sessions"},
    "GET /sanctions": {200: f"items {SANCTION}"},
    "GET /audit": {200: "items id at by action target reason address request_id result prev hash"},
    "GET /alarms": {200: "items code severity since message remedy"},
    "GET /self-check": {200: "ok findings"},
    "POST /session": {200: "name role"},
    "DELETE /session": {200: "sessions"},
    "GET /operators": {200: "items name role disabled"},
    "POST /operators": {201: "name role password"},
    "PATCH /operators/{name}": {200: "name role disabled"},
    "GET /tokens": {200: "items id name role created_by created_at expires_at"},
    "POST /tokens": {201: "id name role token"},
    "DELETE /tokens/{id}": {200: "id name role"},
    "GET /openapi.json": {200: ""},
}
STREAMS = {"GET /export": {"application/x-ndjson", "text/csv"}, "GET /live": {"text/event-stream"}}
QUERIES = {
    "GET /commands": "type subject by state since until text limit cursor", "POST /commands": "wait",
    "GET /dead": "limit cursor", "POST /dead/requeue": "dry_run", "POST /dead/discard": "dry_run",
    "GET /export": "what format", "GET /live": "topics", "GET /nodes": "limit cursor", "GET /rooms": "limit cursor",
    "GET /audit": "limit cursor", "GET /sanctions": "limit cursor", "GET /rooms/{id}/history": "limit cursor",
}  # fmt: skip
TYPES = {
    "member.mute": "user seconds", "member.ban": "user seconds", "member.unmute": "user", "member.unban": "user",
    "member.kick": "user", "user.mute": "seconds shadow", "user.ban": "seconds", "user.unmute": "", "user.unban": "",
    "user.kick": "", "user.warn": "text", "room.open": "title", "room.close": "", "room.freeze": "",
    "room.unfreeze": "", "room.clear": "", "room.slow_mode": "seconds", "message.delete": "message_ids user since",
    "notice.post": "text level",
}  # fmt: skip
BROADCASTS = {"notice.flash": "text level seconds", "config.reload": "", "cache.drop": "what"}
CODES = {"undecodable", "unknown_version", "unknown_type", "too_large", "attempts_used_up", "killed_its_node",
         "timed_out", "effects_failed", "superseded"}  # fmt: skip
STATES = {"scheduled", "accepted", "handling", "retrying", "done", "rejected", "expired", "dead", "cancelled"}


class Document:
    def __init__(self, found: dict[str, Any]) -> None:
        self.paths, self._schemas = found["paths"], found["components"]["schemas"]

    def operation(self, call: str) -> dict[str, Any]:
        method, path = call.split()
        operation: dict[str, Any] = self.paths[path][method.lower()]
        return operation

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        return self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def named(self, name: str) -> dict[str, Any]:
        schema: dict[str, Any] = self._schemas[name]
        return schema

    def fields(self, schema: dict[str, Any]) -> set[str]:
        """Of all the forms that an answer may have."""
        schema = self.resolved(schema)
        forms = schema.get("anyOf") or schema.get("oneOf") or [schema]
        return {field for form in forms for field in self.resolved(form).get("properties", {})}


@pytest.fixture
async def document(api: Api) -> Document:
    return Document((await api.get("/openapi.json")).json)


async def test_every_call_answers_with_the_promised_fields(document: Document) -> None:
    for call, answers in PROMISED.items():
        responses = document.operation(call)["responses"]
        for status, fields in answers.items():
            schema = document.resolved(responses[str(status)]["content"]["application/json"]["schema"])
            wanted = set(fields.split())
            if "items" in wanted:
                assert {"items", "next_cursor"} <= set(schema["required"]), call
                schema, wanted = schema["properties"]["items"]["items"], wanted - {"items"}
            assert wanted <= document.fields(schema), call
    searched = document.operation("GET /commands")["responses"]["200"]["content"]["application/json"]["schema"]
    assert {"searched_until", "complete"} <= set(searched["required"])
    for call, types in STREAMS.items():
        assert set(document.operation(call)["responses"]["200"]["content"]) == types


async def test_every_call_takes_the_promised_parameters(document: Document) -> None:
    for call, names in QUERIES.items():
        given = {each["name"]: each["schema"] for each in document.operation(call)["parameters"]}
        assert set(names.split()) <= set(given), call
        if "limit" in given:
            assert (given["limit"]["minimum"], given["limit"]["maximum"]) == (1, 500)
    assert "Idempotency-Key" in {each["name"] for each in document.operation("POST /commands")["parameters"]}


async def test_every_type_takes_the_promised_payload(document: Document) -> None:
    for names, prefix in ((TYPES, "Command"), (BROADCASTS, "Broadcast")):
        for type_, fields in names.items():
            payload = document.resolved(document.named(f"{prefix}.{type_}")["properties"]["payload"])
            assert set(payload.get("properties", {})) == set(fields.split()), type_
            assert payload["additionalProperties"] is False
    built_in = {known.name for known in default.types() if not known.plugin}
    assert built_in == set(TYPES)


async def test_states_causes_and_limits_are_the_promised_ones(document: Document) -> None:
    assert set(document.named("CommandView")["properties"]["state"]["enum"]) == STATES
    assert set(document.named("Cause")["properties"]["code"]["enum"]) == CODES
    assert {"type", "title", "status", "detail", "code", "request_id", "errors"} == document.fields(
        document.named("ProblemDocument")
    )
    command = document.named("Command.member.mute")["properties"]
    assert [each.get("maxLength") for each in command["reason"]["anyOf"]] == [500, None]
    limits = next(each for each in command["expires_in"]["anyOf"] if each["type"] == "integer")
    assert (limits["minimum"], limits["maximum"]) == (1, 604_800)
