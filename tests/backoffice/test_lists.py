"""Nodes, shards, rooms, users, sanctions and broadcasts over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import BaseModel

from backoffice.api import nodes
from backoffice.paging import cursor_of
from bridge.channels import Channel
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.inspector import NodeInfo
from bridge.registry import Registry
from bridge.telemetry import Started
from tests.backoffice.audited import audited
from tests.backoffice.conftest import both_databases, serving
from tests.backoffice.service import CHAT_KEY, PASSWORD, Api, backoffice, settings
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until


async def done(api: Api, type_: str, subject: str, payload: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await api.issue(type_, subject, payload, wait=10, **more)
    assert (answer.status, answer.json["state"]) == (200, "done"), answer.body
    shown: dict[str, Any] = answer.json
    return shown


async def everything(api: Api, path: str, limit: int) -> list[Any]:
    """All items of a list, page by page."""
    items, cursor = [], ""
    while True:
        page = (await api.get(f"{path}?limit={limit}{cursor}")).json
        assert page.keys() == {"items", "next_cursor"}
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


async def test_nodes_tell_their_shards_and_types(api: Api, node: Bridge) -> None:
    async def with_shards() -> Any:
        [told] = (await api.get("/nodes")).json["items"]
        return told if len(told["shards"]) == 8 else None

    told = await until(with_shards)
    assert (told["name"], told["state"], told["url"], told["lag"]) == ("node-a", "live", "ws://127.0.0.1:9/ws", 0)
    assert "member.mute" in told["types"]
    assert told["heartbeat_age_s"] < 5


async def test_a_drained_node_hands_over_until_it_is_let_back(
    api: Api, node: Bridge, bridge_settings: BridgeSettings, events: Recorder
) -> None:
    async def shards_of(name: str) -> tuple[str, int]:
        nodes = {told["name"]: told for told in (await api.get("/nodes")).json["items"]}
        return nodes[name]["state"], len(nodes[name]["shards"])

    async def drained() -> bool:
        return await shards_of("node-a") == ("draining", 0) and await shards_of("node-b") == ("live", 8)

    async def let_back() -> bool:
        state, shards = await shards_of("node-a")
        return state == "live" and 0 < shards < 8

    async with serving(bridge_settings, events, "node-b", shards=1):
        answer = await api.post("/nodes/node-a/drain")
        assert (answer.status, answer.json["name"], answer.json["state"]) == (200, "node-a", "draining")
        assert await node.redis.call("HGET", node.keys.draining, "node-a") == b"admin"
        await until(drained, 30)
        assert (await api.delete("/nodes/node-a/drain")).status == 200
        await until(let_back, 30)


def test_what_a_dead_node_had_went_with_it() -> None:
    def view(state: str) -> nodes.NodeView:
        return nodes.view(NodeInfo("node-a", "boot", "1", "ws://x", state, 9.0, [], 3, 2, [], 0, {}))

    assert (view("dead").sessions, view("dead").rooms) == (0, 0)
    assert (view("draining").sessions, view("draining").rooms) == (3, 2)


async def test_an_unknown_node_cannot_be_drained(api: Api) -> None:
    for method in ("POST", "DELETE"):
        assert (await api.call(method, "/nodes/node-x/drain")).status == 404


async def test_shards_tell_their_holder_and_backlog(api: Api, node: Bridge) -> None:
    async def all_held() -> Any:  # a lease may run out while the machine stalls
        shards = (await api.get("/shards")).json["items"]
        return shards if {shard["holder"] for shard in shards} == {"node-a"} else None

    numbers = list(range(8))
    assert [shard["shard"] for shard in await until(all_held)] == numbers
    assert [shard["shard"] for shard in await everything(api, "/shards", 3)] == numbers


async def test_pending_names_what_is_under_way_page_by_page(server: Server, events: Recorder) -> None:
    registry, release = Registry(), asyncio.Event()

    @registry.command("test.slow", subject="user")
    class Slow(BaseModel):
        pass

    @registry.handles(Slow)
    async def slow(_command: Command[Slow]) -> Effects:
        await release.wait()
        return Effects()

    config = settings(server.url)
    async with serving(config, events, registry=registry) as bridge, backoffice(config, registry=registry) as api:
        id = (await api.issue("test.slow", "user:u7", {})).json["id"]
        await events.wait_for(Started, id=id)
        page = (await api.get(f"/shards/{id.split('-')[0]}/pending")).json
        [entry] = page["items"]
        assert (entry["id"], entry["type"], entry["subject"], entry["node"]) == (id, "test.slow", "user:u7", "node-a")
        assert (entry["deliveries"], page["next_cursor"]) == (1, None)
        assert entry["idle_s"] >= 0
        shard = id.split("-")[0]
        ids = [id]
        for number in range(60):
            if str(bridge.shard_of(f"user:n{number}")) == shard:
                ids.append((await api.issue("test.slow", f"user:n{number}", {})).json["id"])
                await events.wait_for(Started, id=ids[-1])
        assert len(ids) > 3
        assert [entry["id"] for entry in await everything(api, f"/shards/{shard}/pending", 2)] == ids
        release.set()


async def test_rooms_are_listed_by_id_and_shown(api: Api, node: Bridge) -> None:
    ids = [f"r{n:02}" for n in range(7)]
    for id in ids:
        await done(api, "room.open", f"room:{id}", {"title": f"Room {id}"})
    await done(api, "room.slow_mode", "room:r03", {"seconds": 5})
    await done(api, "room.freeze", "room:r03", {})
    assert [room["id"] for room in await everything(api, "/rooms", 3)] == ids
    assert (await api.get("/rooms/r03")).json == {
        "id": "r03",
        "title": "Room r03",
        "state": "frozen",
        "slow_mode_s": 5,
        "members": 0,
    }


async def test_history_is_newest_first_and_hides_what_was_deleted(api: Api, node: Bridge) -> None:
    await done(api, "room.open", "room:lobby", {})
    for n in range(5):
        await done(api, "notice.post", "room:lobby", {"text": f"notice {n}", "level": "warning"})
    history = await everything(api, "/rooms/lobby/history", 2)
    assert [item["text"] for item in history] == [f"notice {n}" for n in (4, 3, 2, 1, 0)]
    assert {(item["kind"], item["user"], item["name"], item["level"]) for item in history} == {
        ("notice", None, None, "warning")
    }
    assert [item["offset"] for item in history] == sorted((item["offset"] for item in history), reverse=True)
    await done(api, "message.delete", "room:lobby", {"message_ids": [history[0]["message_id"]]})
    [newest] = (await api.get("/rooms/lobby/history?limit=1")).json["items"]
    assert (newest["text"], newest["deleted_by"]) == (None, "admin")
    assert datetime.fromisoformat(newest["ts"]).tzinfo == UTC


async def test_a_room_that_was_never_opened_may_have_a_history(api: Api, node: Bridge) -> None:
    await done(api, "notice.post", "room:attic", {"text": "hello"})
    assert (await api.get("/rooms/attic")).status == 404
    assert [item["text"] for item in (await api.get("/rooms/attic/history")).json["items"]] == ["hello"]


async def test_sanctions_that_hold_are_listed_with_who_when_and_why(api: Api, node: Bridge) -> None:
    mute = await done(api, "member.mute", "room:lobby", {"user": "u7", "seconds": 60}, reason="spam")
    await done(api, "user.mute", "user:u7", {"shadow": True})
    await done(api, "member.ban", "room:attic", {"user": "u8"})
    await done(api, "user.ban", "user:u9", {})
    await done(api, "user.unban", "user:u9", {})
    listed = await everything(api, "/sanctions", 2)
    assert [(s["room"], s["user"], s["kind"], s["shadow"]) for s in listed] == [
        (None, "u7", "mute", True),
        ("attic", "u8", "ban", False),
        ("lobby", "u7", "mute", False),
    ]
    told = listed[2]
    assert (told["reason"], told["by"], told["command_id"]) == ("spam", "admin", mute["id"])
    assert datetime.fromisoformat(told["until"]) - datetime.fromisoformat(told["since"]) == timedelta(seconds=60)
    assert (listed[1]["until"], listed[1]["reason"]) == (None, None)


async def test_a_user_nobody_has_seen_is_shown_by_id(api: Api, node: Bridge) -> None:
    assert (await api.get("/users/u7")).json == {"id": "u7", "name": "u7", "sanctions": [], "sessions": []}
    await done(api, "user.mute", "user:u7", {"seconds": 60})
    [sanction] = (await api.get("/users/u7")).json["sanctions"]
    assert (sanction["kind"], sanction["room"]) == ("mute", None)


async def test_a_users_sessions_are_shown(api: Api, node: Bridge) -> None:
    keys, shard = node.keys, node.shard_of("user:u7")
    now = int(await node.inspector.now() * 1000)
    for session, at in (("s2", now), ("s1", now - 1000)):
        member = orjson.dumps([session, "node-a", at, "Ann"])
        await node.redis.call("ZADD", keys.state(shard, "user:u7", "sessions"), now, member)
    await node.redis.call("HSET", keys.state(shard, "user:u7", "session:rooms"), "s2", orjson.dumps(["lobby"]))
    shown = (await api.get("/users/u7")).json
    assert shown["name"] == "Ann"
    assert [(s["session"], s["node"], s["rooms"]) for s in shown["sessions"]] == [
        ("s1", "node-a", []),
        ("s2", "node-a", ["lobby"]),
    ]


async def test_a_broadcast_is_on_its_channel_where_the_answer_says(api: Api, node: Bridge) -> None:
    flash = {"type": "notice.flash", "payload": {"text": "hello", "level": "warning"}}
    for scope, shard, room in (("all", 0, None), ("room:lobby", node.shard_of("room:lobby"), "lobby")):
        answer = await api.post("/broadcasts", {**flash, "scope": scope})
        assert (answer.status, answer.json["channel"]) == (202, "control")
        log = await node.channels.log(Channel.control(shard), after=answer.json["offset"] - 1)
        assert (log[0].epoch, log[0].type) == (answer.json["epoch"], "notice.flash")
        assert (log[0].data["text"], log[0].data.get("room")) == ("hello", room)


async def test_a_chat_token_is_for_the_user_and_only_in_the_demo(api: Api, bridge_settings: BridgeSettings) -> None:
    answer = await api.get("/chat-token?user=u7")
    claims = jwt.decode(answer.json["token"], OctKey.import_key(CHAT_KEY)).claims
    assert claims["sub"] == "u7"
    assert datetime.fromtimestamp(claims["exp"], UTC) == datetime.fromisoformat(answer.json["expires_at"])
    [_, made] = await audited(api, 2, action="chat_token.issue")
    assert (made["by"], made["target"], made["result"]) == ("admin", "user:u7", "done")
    async with backoffice(bridge_settings, chat_key=None) as elsewhere:
        assert (await elsewhere.get("/chat-token?user=u7")).status == 404


HUGE = 2**63


@both_databases
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/commands", f"{HUGE} 1-1-1"), ("/commands", f"{10**22} 1-1-1"), ("/commands", "1 "), ("/commands", "1 a\0"),
        ("/commands", "\u0661 1-1-1"), ("/audit", HUGE), ("/audit", -HUGE), ("/audit", 2**64 - 1),
    ],
)  # fmt: skip
async def test_a_cursor_that_no_list_gives_is_refused(database_url: str, api: Api, path: str, value: int | str) -> None:
    answer = await api.get(f"{path}?cursor={cursor_of(value)}")
    assert (answer.status, answer.json["errors"][0]["code"]) == (422, "bad_cursor")
    assert (await api.get(f"{path}?cursor={cursor_of('1 1-1-1' if isinstance(value, str) else 1)}")).status == 200


async def test_a_browser_whose_name_is_no_text_logs_in(api: Api) -> None:
    reader, writer = await asyncio.open_connection(*api.url.removeprefix("http://").split(":"))
    body = orjson.dumps({"name": "admin", "password": PASSWORD})
    writer.write(
        b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nUser-Agent: a\xffb\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    assert answer.split()[1] == b"200", answer
