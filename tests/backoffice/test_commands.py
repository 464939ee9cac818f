"""Issuing commands, following them and cancelling them over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import Registry
from bridge.shards import shard_of
from bridge.telemetry import Started
from tests.backoffice.audited import audited
from tests.backoffice.conftest import serving
from tests.backoffice.service import Api, backoffice, settings
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import Stopwatch, until


async def test_an_accepted_command_names_itself_its_place_and_its_key(api: Api) -> None:
    answer = await api.issue("room.open", "room:lobby", {"title": "Lobby"}, key="first")
    assert answer.status == 202
    assert answer.headers["Location"] == f"/api/v1/commands/{answer.json['id']}"
    assert answer.json == {
        "id": answer.json["id"],
        "type": "room.open",
        "subject": "room:lobby",
        "state": "accepted",
        "duplicate": False,
        "idempotency_key": "first",
    }


async def test_a_command_without_a_key_gets_one_of_its_own(api: Api) -> None:
    keys = {(await api.issue("room.open", "room:lobby", {})).json["idempotency_key"] for _ in range(3)}
    assert len(keys) == 3


async def test_waiting_gives_the_whole_command_once_it_ended(api: Api, node: Bridge) -> None:
    answer = await api.issue("room.open", "room:lobby", {"title": "Lobby"}, wait=10, reason="we begin")
    assert answer.status == 200
    shown = answer.json
    assert (shown["state"], shown["node"], shown["reason"], shown["issued_by"]) == (
        "done",
        "node-a",
        "we begin",
        "admin",
    )
    assert (shown["timeline"][0]["state"], shown["timeline"][-1]["state"]) == ("accepted", "done")
    assert (shown["receipts"], shown["missing_nodes"], shown["deliver_at"]) == ([], [], None)
    assert shown["result"] == {"created": True, "title": "Lobby"}
    duplicate = shown.pop("duplicate")
    assert duplicate is False
    assert (await api.get(f"/commands/{shown['id']}")).json == shown


async def test_waiting_for_what_nobody_handles_ends_in_accepted(api: Api) -> None:
    answer = await api.issue("room.open", "room:lobby", {}, wait=0.05)
    assert (answer.status, answer.json["state"]) == (202, "accepted")


async def test_a_rejected_command_ends_the_wait_too(api: Api, node: Bridge) -> None:
    answer = await api.issue("room.close", "room:nowhere", {}, wait=10)
    assert (answer.status, answer.json["state"]) == (200, "rejected")
    assert answer.json["error"]["code"]
    assert answer.json["error"]["message"]


async def test_a_known_key_gives_the_earlier_command(api: Api) -> None:
    first = await api.issue("room.open", "room:lobby", {}, key="once")
    again = await api.issue("room.open", "room:lobby", {}, key="once")
    assert (first.status, again.status) == (202, 200)
    assert again.json == {**first.json, "duplicate": True}


async def test_a_key_belongs_to_its_caller_and_subject(api: Api) -> None:
    ids = {
        (await caller.issue("member.kick", subject, {"user": "u7"}, key="same")).json["id"]
        for caller in (api, api.as_("moderator"))
        for subject in ("room:lobby", "room:attic")
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    "other",
    [{"type": "member.unmute"}, {"payload": {"user": "u8"}}, {"reason": "another"}, {"expires_in": 60}],
    ids=lambda other: next(iter(other)),
)
async def test_a_key_of_another_body_is_refused(api: Api, other: dict[str, object]) -> None:
    body = {"type": "member.kick", "subject": "room:lobby", "payload": {"user": "u7"}}
    headers = {"Idempotency-Key": "once"}
    assert (await api.post("/commands", body, headers=headers)).status == 202
    refused = await api.post("/commands", {**body, **other}, headers=headers)
    assert (refused.status, refused.json["code"]) == (422, "idempotency_mismatch")
    assert refused.json["errors"][0]["path"] == ":Idempotency-Key"


async def test_of_a_hundred_racing_posts_with_one_key_one_takes_effect(api: Api, node: Bridge) -> None:
    answers = await asyncio.gather(
        *(api.issue("notice.post", "room:lobby", {"text": "hello"}, key="race", wait=10) for _ in range(100))
    )
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum(not answer.json["duplicate"] for answer in answers) == 1
    assert [item["text"] for item in (await api.get("/rooms/lobby/history")).json["items"]] == ["hello"]


async def test_a_batch_answers_for_each_command_in_order(api: Api) -> None:
    good = {"type": "room.open", "subject": "room:lobby", "payload": {}}
    answer = await api.post(
        "/commands/batch",
        {
            "commands": [
                {**good, "idempotency_key": "k"},
                {**good, "idempotency_key": "k"},
                {**good, "idempotency_key": "k", "reason": "another"},
                {**good, "subject": "user:u7"},
                "no command",
                {**good, "type": "no.such"},
                {"type": "member.mute", "subject": "room:lobby", "payload": {"user": "", "seconds": 0}},
            ]
        },
    )
    assert answer.status == 207
    results = answer.json["results"]
    assert [r["status"] for r in results] == [202, 200, 422, 422, 422, 422, 422]
    assert results[1]["id"] == results[0]["id"]
    problems = [r["problem"] for r in results[2:]]
    assert [p["code"] for p in problems] == ["idempotency_mismatch", "invalid", "invalid", "unknown_type", "invalid"]
    assert [fault["path"] for p in problems for fault in p["errors"]] == [
        "/commands/2/idempotency_key",
        "/commands/3/subject",
        "/commands/4",
        "/commands/5/type",
        "/commands/6/payload/seconds",
        "/commands/6/payload/user",
    ]


async def test_a_dry_run_of_a_batch_has_the_same_results_and_does_nothing(api: Api, server: Server) -> None:
    good = {"type": "room.open", "subject": "room:lobby", "payload": {}}
    known = (await api.issue("room.open", "room:lobby", {}, key="known")).json["id"]
    caller = api.as_("moderator")
    batch = {
        "commands": [
            good,
            {**good, "idempotency_key": "k"},
            {**good, "idempotency_key": "k"},
            {**good, "idempotency_key": "k", "reason": "another"},
            {**good, "idempotency_key": "k", "subject": "room:other"},
            {**good, "idempotency_key": "known"},
            {**good, "idempotency_key": "known", "payload": {"title": "Lobby"}},
            {**good, "subject": "user:u7"},
            "no command",
            {**good, "type": "no.such"},
            {**good, "payload": {"title": "x" * 70_000}},
            {"type": "member.mute", "subject": "room:lobby", "payload": {"user": "", "seconds": 0}},
        ]
    }
    raw = server.client()
    before = {key: await raw.dump(key) for key in await raw.keys("*:commands") + await raw.keys("*:idem:*")}
    dry = await api.post("/commands/batch?dry_run=1", batch)
    forbidden = await caller.post("/commands/batch?dry_run=true", {"commands": [good]})
    after = {key: await raw.dump(key) for key in await raw.keys("*:commands") + await raw.keys("*:idem:*")}
    assert after == before
    wet = await api.post("/commands/batch", batch)
    assert (dry.status, dry.json["dry_run"], wet.json["dry_run"]) == (207, True, False)
    assert [told(result) for result in dry.json["results"]] == [told(result) for result in wet.json["results"]]
    assert [result["status"] for result in dry.json["results"]] == [202, 202, 200, 422, 202, 200] + [422] * 6
    assert dry.json["results"][0] == {
        "status": 202, "id": None, "type": "room.open", "subject": "room:lobby", "state": None, "duplicate": False,
        "idempotency_key": None,
    }  # fmt: skip
    assert dry.json["results"][5]["id"] == known
    assert forbidden.json["results"][0]["problem"]["code"] == "forbidden"


def told(result: dict[str, Any]) -> tuple[Any, ...]:
    """What a dry run tells as well."""
    problem = result.get("problem", {})
    return (
        result["status"],
        result.get("duplicate"),
        problem.get("code"),
        [e["path"] for e in problem.get("errors", ())],
    )


async def test_a_dry_run_of_a_batch_has_one_entry_in_the_audit_chain(api: Api) -> None:
    good = {"type": "room.open", "subject": "room:lobby", "payload": {}}
    await api.as_("operator").post("/commands/batch?dry_run=1", {"commands": [good, {"type": 7}]})
    intent, result = await audited(api, 2)
    assert (intent["by"], intent["action"], intent["target"]) == ("operator", "commands.issue", "batch")
    assert intent["detail"] == {"dry_run": True, "commands": 2}
    assert (result["result"], result["of"]) == ("would be 202: 1, 422: 1", intent["seq"])


async def test_a_full_batch_of_one_subject_is_accepted_in_its_order(api: Api) -> None:
    commands = [{"type": "notice.post", "subject": "room:lobby", "payload": {"text": str(n)}} for n in range(1000)]
    results = (await api.post("/commands/batch", {"commands": commands})).json["results"]
    assert {r["status"] for r in results} == {202}
    positions = [tuple(map(int, r["id"].split("-"))) for r in results]
    assert positions == sorted(positions)


async def test_a_command_that_waits_can_be_cancelled_once(api: Api) -> None:
    id = (await api.issue("room.open", "room:lobby", {})).json["id"]
    cancelled = await api.delete(f"/commands/{id}")
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert (await api.get(f"/commands/{id}")).json["state"] == "cancelled"
    again = await api.delete(f"/commands/{id}")
    assert (again.status, again.json["code"]) == (409, "conflict")


async def test_a_command_that_was_begun_cannot_be_cancelled(server: Server, events: Recorder) -> None:
    release, registry = asyncio.Event(), Registry()
    config = settings(server.url)
    _register_slow(registry, release)
    async with serving(config, events, registry=registry), backoffice(config, registry=registry) as api:
        id = (await api.issue("test.slow", "user:u7", {})).json["id"]
        await events.wait_for(Started, id=id)
        shown = (await api.get(f"/commands/{id}")).json
        assert (shown["state"], shown["node"]) == ("handling", "node-a")
        refused = await api.delete(f"/commands/{id}")
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        release.set()


async def test_what_ended_cannot_be_cancelled(api: Api, node: Bridge) -> None:
    id = (await api.issue("room.open", "room:lobby", {}, wait=10)).json["id"]
    assert (await api.delete(f"/commands/{id}")).status == 409


@pytest.mark.parametrize("id", ["1-1-1", "99-1-1", "x", "1-1", "%00", "1-1-1-1", "9" * 300])
async def test_an_unknown_command_is_not_found(api: Api, id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await api.call(method, f"/commands/{id}")
        assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_an_expired_command_says_so(api: Api, bridge_settings: BridgeSettings, events: Recorder) -> None:
    id = (await api.issue("room.open", "room:lobby", {}, expires_in=1)).json["id"]
    shown = (await api.get(f"/commands/{id}")).json
    assert shown["expires_at"] > shown["issued_at"]

    async def expired() -> bool:
        raw = await bridge.inspector.now()
        return raw * 1000 > int(id.split("-")[1]) + 1000

    async with Bridge.connect(bridge_settings) as bridge:
        await until(expired)
    async with serving(bridge_settings, events):
        shown = await until(lambda: _state(api, id, "expired"))
    assert shown


async def test_a_shard_over_its_limit_answers_overloaded_and_names_the_key(server: Server) -> None:
    async with backoffice(settings(server.url, backlog_limit=2)) as api:
        for _ in range(2):
            assert (await api.issue("room.open", "room:lobby", {})).status == 202
        refused = await api.issue("room.open", "room:lobby", {}, key="mine")
        assert (refused.status, refused.json["code"]) == (429, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json["idempotency_key"] == "mine"
        elsewhere = next(f"room:r{n}" for n in range(99) if shard_of(f"room:r{n}", 8) != shard_of("room:lobby", 8))
        assert (await api.issue("room.open", elsewhere, {})).status == 202


async def test_a_type_that_a_live_node_does_not_know_is_refused_with_the_nodes_name(
    server: Server, events: Recorder
) -> None:
    config, knowing = settings(server.url), Registry()
    _register_slow(knowing, asyncio.Event())
    async with serving(config, events, registry=Registry()), backoffice(config, registry=knowing) as api:
        refused = await api.issue("test.slow", "user:u7", {})
        assert (refused.status, refused.json["code"]) == (422, "unknown_type")
        assert "node-a" in refused.json["detail"]
        assert refused.json["nodes"] == ["node-a"]


async def test_stopping_answers_those_who_wait(bridge_settings: BridgeSettings) -> None:
    async with backoffice(bridge_settings) as api:
        waiting = asyncio.create_task(api.issue("room.open", "room:lobby", {}, wait=30))
        await until(lambda: _length(api))
        async with Stopwatch() as watch:
            await api.stop()
            assert (await waiting).status == 202
        assert watch.seconds < 2


async def _length(api: Api) -> bool:
    return any(shard["length"] for shard in (await api.get("/shards")).json["items"])


async def _state(api: Api, id: str, wanted: str) -> bool:
    return bool((await api.get(f"/commands/{id}")).json["state"] == wanted)


def _register_slow(registry: Registry, release: asyncio.Event) -> None:
    @registry.command("test.slow", subject="user")
    class Slow(BaseModel):
        pass

    @registry.handles(Slow)
    async def slow(_command: Command[Slow]) -> Effects:
        await release.wait()
        return Effects()


async def test_a_command_for_later_is_shown_and_can_be_cancelled(api: Api, node: Bridge) -> None:
    due = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    in_seoul = due.astimezone(timezone(timedelta(hours=9))).isoformat()
    body = {"type": "room.open", "subject": "room:lobby", "payload": {}, "deliver_at": in_seoul}
    accepted = await api.post("/commands", body)
    assert (accepted.status, accepted.json["state"]) == (202, "accepted")
    shown = (await api.get(f"/commands/{accepted.json['id']}")).json
    assert (shown["state"], shown["deliver_at"]) == ("scheduled", due.isoformat().replace("+00:00", "Z"))
    assert [step["state"] for step in shown["timeline"]] == ["scheduled"]
    cancelled = await api.delete(f"/commands/{accepted.json['id']}")
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")


async def test_the_nodes_answers_are_shown_and_who_has_not_answered_is_named(api: Api, node: Bridge) -> None:
    kicked = await api.issue("user.kick", "user:u1", {}, wait=10)  # that node follows no control channel
    assert (kicked.json["receipts"], kicked.json["missing_nodes"]) == ([], ["node-a"])
    id = kicked.json["id"]
    await node.receipts.write("node-a", node.shard_of("user:u1"), {id: 2})
    shown = (await api.get(f"/commands/{id}")).json
    assert (shown["receipts"], shown["missing_nodes"]) == ([{"node": "node-a", "sessions": 2}], [])
