"""Dead letters over HTTP: listed, shown, sent again once, thrown away."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.dead_letters import DeadLetters
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import Registry
from bridge.telemetry import Buried, Settled
from tests.backoffice.audited import audited
from tests.backoffice.conftest import serving
from tests.backoffice.service import Api, backoffice, settings
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until


def moody() -> Registry:
    """A type whose handler fails while ``mood`` is "bad"."""
    registry = Registry()

    @registry.command("test.moody", subject="user")
    class Moody(BaseModel):
        mood: str = "bad"

    @registry.handles(Moody)
    async def handle(command: Command[Moody]) -> Effects:
        if command.payload.mood == "bad":
            raise RuntimeError("in a bad mood")
        return Effects().incr("handled")

    return registry


@pytest.fixture
def bridge_settings(server: Server) -> BridgeSettings:
    return settings(server.url, max_attempts=1)


@pytest.fixture
async def api(bridge_settings: BridgeSettings, events: Recorder) -> AsyncIterator[Api]:
    registry = moody()
    async with (
        serving(bridge_settings, events, registry=registry),
        backoffice(bridge_settings, registry=registry) as api,
    ):
        yield api


async def bury(api: Api, *subjects: str) -> list[str]:
    """Commands that failed, oldest first."""
    ids = []
    for subject in subjects:
        answer = await api.issue("test.moody", subject, {}, reason="why not", wait=10)
        assert (answer.status, answer.json["state"]) == (200, "dead")
        ids.append(answer.json["id"])
    return ids


async def listed(api: Api, query: str = "") -> list[str]:
    return [letter["id"] for letter in (await api.get(f"/dead{query}")).json["items"]]


async def test_a_dead_letter_says_what_it_was_and_why(api: Api) -> None:
    [id] = await bury(api, "user:u7")
    letter = (await api.get(f"/dead/{id}")).json
    assert letter["cause"]["code"] == "attempts_used_up"
    assert "in a bad mood" in letter["cause"]["message"]
    assert (letter["type"], letter["subject"], letter["payload"]) == ("test.moody", "user:u7", {})
    assert (letter["attempts"], letter["node"], letter["requeued_as"]) == (1, "node-a", None)
    assert base64.b64decode(letter["raw"]["type"]) == b"test.moody"
    assert (await api.get("/dead")).json == {"items": [letter], "next_cursor": None}


async def test_lists_page_newest_first_and_filter(api: Api) -> None:
    ids = await bury(api, *(f"user:u{n}" for n in range(5)))
    seen, cursor = [], ""
    while True:
        page = (await api.get(f"/dead?limit=2{cursor}")).json
        seen += [letter["id"] for letter in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]
    assert await listed(api, "?subject=user:u3") == [ids[3]]
    assert await listed(api, f"?shard={ids[1].split('-')[0]}&subject=user:u1") == [ids[1]]
    assert await listed(api, "?type=test.other") == []
    assert await listed(api, "?code=timed_out") == []


async def test_a_letter_sent_again_makes_one_new_command(api: Api, events: Recorder) -> None:
    [id] = await bury(api, "user:u7")
    again = {"ids": [id], "reason": "better now", "payload": {"mood": "good"}}
    first = (await api.post("/dead/requeue", again)).json
    new_id = first["done"][0]["new_id"]
    assert first == {
        "matched": 1, "done": [{"id": id, "new_id": new_id}], "skipped": [], "dry_run": False, "next_cursor": None,
    }  # fmt: skip
    await events.wait_for(Settled, id=new_id, state="done")
    second = (await api.post("/dead/requeue", again)).json
    assert second["done"] == []
    assert [skipped["id"] for skipped in second["skipped"]] == [id]
    shown = (await api.get(f"/commands/{new_id}")).json
    assert (shown["state"], shown["origin"], shown["issued_by"], shown["reason"]) == ("done", id, "admin", "better now")
    assert (await api.get(f"/commands/{id}")).json["requeued_as"] == new_id
    assert (await api.get(f"/dead/{id}")).json["requeued_as"] == new_id
    assert (await listed(api), await listed(api, "?requeued=true")) == ([], [id])


async def test_a_dry_run_does_nothing(api: Api) -> None:
    ids = await bury(api, "user:u7", "user:u8")
    for action in ("requeue", "discard"):
        answer = (await api.post(f"/dead/{action}?dry_run=1", {"filter": {}, "reason": "look"})).json
        assert (answer["matched"], answer["dry_run"]) == (2, True)
        assert {moved["id"] for moved in answer["done"]} == set(ids)
    assert set(await listed(api)) == set(ids)


async def test_a_filter_chooses_what_is_thrown_away(api: Api) -> None:
    ids = await bury(api, "user:u7", "user:u8")
    answer = (await api.post("/dead/discard", {"filter": {"subject": "user:u7"}, "reason": "noise"})).json
    assert (answer["matched"], answer["done"]) == (1, [{"id": ids[0], "new_id": None}])
    assert await listed(api) == [ids[1]]
    assert (await api.get(f"/dead/{ids[0]}")).status == 404


async def test_what_was_done_with_letters_stands_in_the_audit_chain(api: Api) -> None:
    one, two = await bury(api, "user:u7", "user:u8")
    await api.post("/dead/discard?dry_run=1", {"ids": [one], "reason": "look"})
    await api.post("/dead/discard", {"ids": [one, "1-1-1"], "reason": "noise"})
    answer = await api.as_("operator").post("/dead/requeue", {"ids": [two], "reason": "mended"})
    entries = await audited(api, 8, action="dead_letters")
    new = answer.json["done"][0]["new_id"]
    assert [(e["by"], e["action"], e["target"], e["reason"], e["result"]) for e in entries if e["of"]] == [
        ("admin", "dead_letters.discard", "dead", "look", "done"),
        ("admin", "dead_letters.discard", one, "noise", "done"),
        ("admin", "dead_letters.discard", "1-1-1", "noise", "skipped not_found"),
        ("operator", "dead_letters.requeue", two, "mended", f"done as {new}"),
    ]


@pytest.mark.parametrize(("verb", "one"), [("requeue", "_requeue_one"), ("discard", "_discard_one")])
async def test_a_bulk_call_that_is_cut_off_is_told_as_far_as_it_got_and_goes_on_with_its_cursor(
    api: Api, monkeypatch: pytest.MonkeyPatch, verb: str, one: str
) -> None:
    ids = (await bury(api, *(f"user:u{n}" for n in range(6))))[::-1]  # as they are gone through, newest first
    bulk: dict[str, Any] = {"filter": {"type": "test.moody"}, "limit": 1, "reason": "mended"}
    first = (await api.post(f"/dead/{verb}", bulk)).json
    rest = {**bulk, "limit": 4, "cursor": first["next_cursor"]}
    done_first = await audited(api, 2, action=f"dead_letters.{verb}")
    do, held, never = getattr(DeadLetters, one), asyncio.Event(), asyncio.Event()
    calls = itertools.count()

    async def held_up(*given: Any) -> Any:
        if next(calls) == 2:
            held.set()
            await never.wait()
        return await do(*given)

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetters, one, held_up)
        caller = asyncio.create_task(api.post(f"/dead/{verb}", rest))
        await held.wait()
        caller.cancel()
        await asyncio.wait((caller,))
        entries = await audited(api, 10, action=f"dead_letters.{verb}")
    assert [entry["target"] for entry in done_first] == ids[:1] * 2
    assert [(entry["target"], entry["result"]) for entry in entries[2:6]] == [(id, "intended") for id in ids[1:5]]
    results = [(entry["target"], entry["result"].split()[0].strip(":")) for entry in entries[6:]]
    assert results == [(ids[1], "done"), (ids[2], "done"), (ids[3], "unknown"), (ids[4], "unknown")]
    assert set(ids) & set(await listed(api)) == set(ids[3:])  # what was sent again may have died again
    again = (await api.post(f"/dead/{verb}", rest)).json
    assert ([moved["id"] for moved in again["done"]], again["next_cursor"]) == (ids[3:], None)
    assert set(ids) & set(await listed(api)) == set()
    assert set(await listed(api, "?requeued=true")) == (set(ids) if verb == "requeue" else set())


async def test_unknown_ids_are_skipped(api: Api) -> None:
    for action in ("requeue", "discard"):
        answer = await api.post(f"/dead/{action}", {"ids": ["1-1-1", "1-1-1"], "reason": "x"})
        assert (answer.status, answer.json["done"]) == (200, [])
        assert answer.json["skipped"] == [{"id": "1-1-1", "code": "not_found"}]


async def test_a_payload_that_does_not_fit_is_refused(api: Api) -> None:
    [id] = await bury(api, "user:u7")
    answer = await api.post("/dead/requeue", {"ids": [id], "reason": "x", "payload": {"mood": 7, "x": 1}})
    assert (answer.status, answer.json["code"]) == (422, "invalid")
    assert {fault["path"] for fault in answer.json["errors"]} == {"/payload/mood", "/payload/x"}


async def test_entries_that_nobody_can_read_are_shown_as_they_came(
    api: Api, server: Server, bridge_settings: BridgeSettings, events: Recorder
) -> None:
    async with Bridge.connect(bridge_settings) as bridge:
        stream = bridge.keys.commands(3)
    raw = server.client()
    await raw.xadd(stream, {b"v": b"9", b"type": b"\xff\xfe"})
    await raw.xadd(stream, {b"hello": b"world"})
    await raw.xadd(stream, {b"v": b"1", b"type": b"test.moody", b"subject": b"user:u7", b"payload": b"[]",
                            b"by": b"x", b"at": b"1"})  # fmt: skip
    await events.wait_for_many(3, Buried)
    letters = (await api.get("/dead?shard=3")).json["items"]
    by_code = {letter["cause"]["code"]: letter for letter in letters}
    assert by_code.keys() == {"unknown_version", "undecodable"}
    assert base64.b64decode(by_code["unknown_version"]["raw"]["type"]) == b"\xff\xfe"
    assert by_code["undecodable"]["raw"] == {"hello": base64.b64encode(b"world").decode()}
    assert (by_code["undecodable"]["type"], by_code["undecodable"]["payload"]) == (None, None)
    schemas = (await api.get("/openapi.json")).json["components"]
    told = Draft202012Validator({"$ref": "#/components/schemas/CommandView", "components": schemas})
    for letter in letters:
        told.validate((await api.get(f"/commands/{letter['id']}")).json)


async def test_a_letter_that_was_sent_again_takes_room_until_it_is_discarded(
    api: Api, bridge_settings: BridgeSettings
) -> None:
    one, two = await bury(api, "user:u7", "user:u7")
    async with Bridge.connect(bridge_settings) as bridge:

        async def figures() -> tuple[int, int]:
            shard = (await bridge.inspector.look()).shards[bridge.shard_of("user:u7")]
            return shard.dead, shard.letters

        assert await figures() == (2, 2)
        again = {"ids": [one], "reason": "mended", "payload": {"mood": "good"}}
        assert len((await api.post("/dead/requeue", again)).json["done"]) == 1
        assert await figures() == (1, 2)
        gone = (await api.post("/dead/discard", {"filter": {"requeued": True}, "reason": "room"})).json
        assert gone["done"] == [{"id": one, "new_id": None}]
        assert await figures() == (1, 1)
    assert await listed(api) == [two]


async def test_what_repeats_a_letter_is_in_the_history_before_it_ends(server: Server, events: Recorder) -> None:
    config = settings(server.url, max_attempts=1)
    async with backoffice(config, registry=moody()) as api:
        async with serving(config, events, registry=moody()):
            [id] = await bury(api, "user:u7")
        answer = (await api.post("/dead/requeue", {"ids": [id], "reason": "mended"})).json  # which no node handles
        new_id = answer["done"][0]["new_id"]

        async def found() -> Any:
            items = (await api.get("/commands?subject=user:u7&state=accepted")).json["items"]
            return [(item["id"], item["origin"], item["reason"]) for item in items]

        await until(found, what="the new command is listed")
        assert await found() == [(new_id, id, "mended")]

        async def linked() -> bool:
            [dead] = (await api.get("/commands?subject=user:u7&state=dead")).json["items"]
            return bool(dead["requeued_as"] == new_id)

        await until(linked)
