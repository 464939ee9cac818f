"""Every frame a client sends, and its answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.chatserver.client import connected, signed_in, token
from tests.chatserver.conftest import Chat, RunningNode


async def test_hello_comes_first_and_names_the_protocol(node: RunningNode) -> None:
    async with connected(node.url) as client:
        hello = json.loads(await client.socket.recv())
    assert hello["type"] == "hello"
    assert hello["protocol"] == "bridge.v1"
    assert hello["node"] == "node-a"
    assert isinstance(hello["heartbeat_ms"], int)
    assert isinstance(hello["server_time"], int)
    assert client.socket.subprotocol == "bridge.v1"


async def test_a_good_token_is_answered_with_who_and_where_one_is(node: RunningNode) -> None:
    async with signed_in(node.url, "u1", name="한글 이름") as client:
        assert client.ready["user"] == {"user": "u1", "name": "한글 이름"}
        assert client.ready["node"] == "node-a"
        assert client.ready["limits"] == {"frame_bytes": 16384, "text_chars": 500, "rooms": 50, "messages_per_s": 1000}
        assert client.ready["session"]


async def test_what_one_says_everybody_in_the_room_sees_on_every_node(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    first, second = two_nodes
    speaker = await chat.client(first, "u1", "lobby", name="Ann")
    listeners = [await chat.client(first, "u2", "lobby"), await chat.client(second, "u3", "lobby")]
    ok = await speaker.say("lobby", "hello ☀", nonce="n1")
    assert ok["type"] == "ok"
    epoch = (await speaker.ask("join", room="lobby"))["epoch"]
    for client in (speaker, *listeners):
        message = await client.push("message")
        assert message == {
            "type": "message", "room": "lobby", "epoch": epoch, "offset": ok["offset"],
            "message_id": ok["message_id"], "user": "u1", "name": "Ann", "text": "hello ☀", "ts": ok["ts"],
        }  # fmt: skip


async def test_offsets_in_a_room_grow_by_one_whatever_is_published(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    said = await client.say("lobby", "one")
    await chat.done("notice.post", "room:lobby", {"text": "a notice", "level": "warning"})
    await chat.done("message.delete", "room:lobby", {"message_ids": [said["message_id"]]})
    await chat.done("room.slow_mode", "room:lobby", {"seconds": 5})
    pushes = [await client.push(type) for type in ("message", "notice", "deleted", "room")]
    assert [p["offset"] for p in pushes] == [said["offset"] + i for i in range(4)]
    assert pushes[1]["text"] == "a notice"
    assert pushes[1]["level"] == "warning"
    assert pushes[2]["message_ids"] == [said["message_id"]]
    assert (pushes[3]["state"], pushes[3]["slow_mode_s"]) == ("open", 5)


async def test_a_repeated_nonce_gets_the_same_answer_and_says_nothing_twice(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    client = await chat.client(two_nodes[0], "u1", "lobby")
    again = await chat.client(two_nodes[1], "u1", "lobby")
    first = await client.say("lobby", "hello", nonce="n1")
    repeated = await again.say("lobby", "hello", nonce="n1")
    assert {k: repeated[k] for k in ("message_id", "offset", "ts")} == {
        k: first[k] for k in ("message_id", "offset", "ts")
    }
    following = await client.say("lobby", "next", nonce="n2")
    assert following["offset"] == first["offset"] + 1


async def test_joining_an_unknown_room_is_refused(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node)
    answer = await client.ask("join", room="nowhere")
    assert (answer["code"], answer["temporary"]) == ("room_not_found", False)


async def test_a_join_tells_the_room_as_it_is(chat: Chat, node: RunningNode) -> None:
    before = await chat.client(node, "u1", "lobby")
    said = [await before.say("lobby", f"message {i}") for i in range(3)]
    await chat.done("notice.post", "room:lobby", {"text": "kept"})
    await chat.done("message.delete", "room:lobby", {"message_ids": [said[1]["message_id"]]})
    await chat.done("room.freeze", "room:lobby")
    await chat.done("member.mute", "room:lobby", {"user": "u2", "seconds": 60}, reason="spam")
    client = await chat.client(node, "u2")
    joined = await client.ask("join", room="lobby")
    assert joined["state"] == "frozen"
    assert joined["count"] == 2
    assert joined["recovered"] is False
    assert [m["type"] for m in joined["messages"]] == ["message", "message", "message", "notice"]
    assert [m["text"] for m in joined["messages"]] == ["message 0", None, "message 2", "kept"]
    assert joined["offset"] == said[2]["offset"] + 3
    (sanction,) = joined["sanctions"]
    assert (sanction["kind"], sanction["room"], sanction["reason"]) == ("mute", "lobby", "spam")


async def test_joining_twice_is_answered_twice_and_pushes_come_once(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    assert (await client.ask("join", room="lobby"))["type"] == "joined"
    await client.say("lobby", "one")
    last = await client.say("lobby", "two")
    assert [m["text"] for m in await client.pushes("message", 2)] == ["one", "two"]
    assert (await client.ask("ping"))["type"] == "pong"
    assert client.seen("message") == []
    assert last["type"] == "ok"


async def test_who_was_away_gets_exactly_what_came_meanwhile(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    speaker = await chat.client(two_nodes[0], "u1", "lobby")
    async with signed_in(two_nodes[0].url, "u2") as away:
        place = await away.ask("join", room="lobby")
    said = [await speaker.say("lobby", f"message {i}") for i in range(120)]
    await chat.done("room.slow_mode", "room:lobby", {"seconds": 0})
    back = await chat.client(two_nodes[1], "u2")
    since = {"epoch": place["epoch"], "offset": place["offset"]}
    joined = await back.ask("join", room="lobby", since=since)
    assert joined["recovered"] is True
    expected = [place["offset"] + 1 + i for i in range(121)]
    assert [m["offset"] for m in joined["messages"]] == expected
    assert [m["text"] for m in joined["messages"][:-1]] == [f"message {i}" for i in range(120)]
    assert joined["offset"] == said[-1]["offset"] + 1
    nothing = await back.ask("join", room="lobby", since={"epoch": joined["epoch"], "offset": joined["offset"]})
    assert (nothing["recovered"], nothing["messages"]) == (True, [])


@pytest.mark.parametrize("since", [{"epoch": "unknown", "offset": 1}, {"epoch": None, "offset": 10**6}])
async def test_who_names_an_unknown_place_is_told_so(chat: Chat, node: RunningNode, since: dict[str, Any]) -> None:
    client = await chat.client(node)
    joined = await client.ask("join", room="lobby")
    since["epoch"] = since["epoch"] or joined["epoch"]
    again = await client.ask("join", room="lobby", since=since)
    assert (again["type"], again["recovered"]) == ("joined", False)


async def test_messages_during_a_join_come_once_and_in_order(chat: Chat, node: RunningNode) -> None:
    speaker = await chat.client(node, "u1", "lobby")
    clients = [await chat.client(node, f"j{i}") for i in range(5)]

    async def talk() -> int:
        last = 0
        for i in range(100):
            last = (await speaker.say("lobby", str(i)))["offset"]
        return last

    async def join(client: Any) -> tuple[int, Any]:
        joined = await client.ask("join", room="lobby")
        return joined["offset"], client

    talking = asyncio.create_task(talk())
    joins = await asyncio.gather(*map(join, clients))
    last = await talking
    for offset, client in joins:
        came = [m["offset"] for m in await client.pushes("message", last - offset)] if last > offset else []
        assert came == list(range(offset + 1, last + 1))


async def test_history_pages_backwards_without_a_gap(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    for i in range(25):
        await client.say("lobby", str(i))
    pages: list[list[str]] = []
    before = None
    while True:
        answer = await client.ask("history", room="lobby", limit=10, **({"before": before} if before else {}))
        pages.insert(0, [m["text"] for m in answer["messages"]])
        if not answer["more"]:
            break
        before = answer["messages"][0]["offset"]
    assert [len(page) for page in pages] == [5, 10, 10]
    assert [text for page in pages for text in page] == [str(i) for i in range(25)]


async def test_presence_lists_users_once_however_many_sessions_they_have(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    client = await chat.client(two_nodes[0], "u1", "lobby")
    await chat.client(two_nodes[1], "u1", "lobby")
    await chat.client(two_nodes[1], "u2", "lobby", name="Bea")
    answer = await client.ask("presence", room="lobby")
    assert answer["count"] == 2
    users = sorted(answer["users"], key=lambda each: each["user"])  # they come by their last sign of life
    assert users == [{"user": "u1", "name": "u1"}, {"user": "u2", "name": "Bea"}]


async def test_members_are_told_who_comes_and_goes_on_other_nodes(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    client = await chat.client(two_nodes[0], "u1", "lobby")
    async with signed_in(two_nodes[1].url, "u2", "lobby"):
        came = await client.push("presence")
        assert (came["join"], came["leave"], came["count"]) == ([{"user": "u2", "name": "u2"}], [], 2)
    went = await client.push("presence")
    assert (went["join"], went["leave"], went["count"]) == ([], [{"user": "u2", "name": "u2"}], 1)


async def test_who_left_hears_no_more_and_may_not_speak(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    other = await chat.client(node, "u2", "lobby")
    assert (await client.ask("leave", room="lobby"))["type"] == "ok"
    await other.say("lobby", "are you there?")
    for type, fields in (("say", {"text": "x"}), ("leave", {}), ("history", {"limit": 1}), ("presence", {})):
        assert (await client.ask(type, room="lobby", **fields))["code"] == "not_joined"
    assert client.seen("message") == []


async def test_slow_mode_lets_each_user_speak_once_in_a_while(chat: Chat, node: RunningNode) -> None:
    await chat.done("room.slow_mode", "room:lobby", {"seconds": 60})
    client, other = await chat.client(node, "u1", "lobby"), await chat.client(node, "u2", "lobby")
    assert (await client.say("lobby", "one"))["type"] == "ok"
    refused = await client.say("lobby", "two")
    assert (refused["code"], refused["temporary"]) == ("slow_mode", True)
    assert 30_000 < refused["retry_after_ms"] <= 60_000
    assert (await other.say("lobby", "mine"))["type"] == "ok"
    await chat.done("room.slow_mode", "room:lobby", {"seconds": 0})
    assert (await client.say("lobby", "two"))["type"] == "ok"


async def test_a_user_speaks_so_often_in_a_second(chat: Chat) -> None:
    node = await chat.start_node(messages_per_s=2)
    await chat.done("room.open", "room:lobby")
    client = await chat.client(node, "u1", "lobby")
    for i in range(101, 121):  # at once: of a second of theirs some is left, however slow this machine is
        await client.send(type="say", id=i, room="lobby", text=str(i))
    answers = [await client.answer(i) for i in range(101, 121)]
    assert [a["type"] for a in answers[:4]] == ["ok"] * 4
    assert (answers[-1]["code"], answers[-1]["temporary"]) == ("rate_limited", True)
    assert answers[-1]["retry_after_ms"] > 0


async def test_words_that_are_not_said_here_are_read_again_on_demand(chat: Chat, tmp_path: Any) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# none yet\n")
    node = await chat.start_node(words_file=words)
    await chat.done("room.open", "room:lobby")
    client = await chat.client(node, "u1", "lobby")
    assert (await client.say("lobby", "Darn it"))["type"] == "ok"
    words.write_text("darn # mild\n")
    await chat.bridge.broadcast("config.reload", "all", {})
    await chat.bridge.broadcast("notice.flash", "all", {"text": "reloaded", "level": "info", "seconds": None})
    await client.push("notice", text="reloaded")  # travels behind it on the same channel
    assert (await client.say("lobby", "DARN it"))["code"] == "forbidden"
    assert (await client.say("lobby", "darning socks"))["type"] == "ok"


async def test_a_flash_reaches_everyone_or_one_room_and_is_not_kept(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    inside, outside = await chat.client(two_nodes[0], "u1", "lobby"), await chat.client(two_nodes[1], "u2")
    flash = {"text": "hear, hear", "level": "warning", "seconds": 5}
    await chat.bridge.broadcast("notice.flash", "room:lobby", flash)
    await chat.bridge.broadcast("notice.flash", "all", {**flash, "text": "everyone"})
    assert (await inside.push("notice", room="lobby"))["text"] == "hear, hear"
    assert (await outside.push("notice"))["room"] is None
    assert outside.seen("notice") == []
    assert (await inside.ask("history", room="lobby", limit=10))["messages"] == []


async def test_a_token_can_be_renewed_by_the_same_user_only(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node)
    renewed = await client.ask("auth", token=token("u1"))
    assert renewed["session"] == client.ready["session"]
    assert (await client.ask("auth", token=token("u2")))["code"] == "forbidden"
    assert (await client.ask("auth", token="nonsense"))["code"] == "unauthorized"
    assert (await client.ask("ping"))["type"] == "pong"


async def test_a_session_is_in_so_many_rooms(chat: Chat, node: RunningNode) -> None:
    rooms = [f"r{i}" for i in range(51)]
    await asyncio.gather(*(chat.done("room.open", f"room:{room}") for room in rooms))
    client = await chat.client(node, "u1", *rooms[:50])
    assert (await client.ask("join", room=rooms[50]))["code"] == "forbidden"
    await client.ask("leave", room=rooms[0])
    assert (await client.ask("join", room=rooms[50]))["type"] == "joined"


BAD_FRAMES: list[tuple[str, Any, str]] = [
    ("no type", {"id": 1}, "bad_request"),
    ("type is a number", {"type": 5, "id": 1}, "bad_request"),
    ("type is null", {"type": None, "id": 1}, "bad_request"),
    ("type is a list", {"type": ["say"], "id": 1}, "bad_request"),
    ("unknown type", {"type": "shout", "id": 1}, "bad_request"),
    ("a push's type", {"type": "message", "id": 1}, "bad_request"),
    ("wrong case", {"type": "SAY", "id": 1, "room": "lobby", "text": "x"}, "bad_request"),
    ("no id", {"type": "ping"}, "bad_request"),
    ("id is text", {"type": "ping", "id": "1"}, "bad_request"),
    ("id is a float", {"type": "ping", "id": 1.5}, "bad_request"),
    ("id is true", {"type": "ping", "id": True}, "bad_request"),
    ("id is null", {"type": "ping", "id": None}, "bad_request"),
    ("id over 64 bits", {"type": "ping", "id": 1 << 70}, "bad_request"),
    ("join: no room", {"type": "join", "id": 1}, "bad_request"),
    ("join: room is null", {"type": "join", "id": 1, "room": None}, "bad_request"),
    ("join: room is a number", {"type": "join", "id": 1, "room": 7}, "bad_request"),
    ("join: room is empty", {"type": "join", "id": 1, "room": ""}, "bad_request"),
    ("join: room with a blank", {"type": "join", "id": 1, "room": "the lobby"}, "bad_request"),
    ("join: room with a colon", {"type": "join", "id": 1, "room": "room:lobby"}, "bad_request"),
    ("join: room with a newline", {"type": "join", "id": 1, "room": "lobby\n"}, "bad_request"),
    ("join: room with braces", {"type": "join", "id": 1, "room": "{0}"}, "bad_request"),
    ("join: room in Korean", {"type": "join", "id": 1, "room": "로비"}, "bad_request"),
    ("join: room too long", {"type": "join", "id": 1, "room": "r" * 65}, "bad_request"),
    ("join: since is text", {"type": "join", "id": 1, "room": "lobby", "since": "x"}, "bad_request"),
    ("join: since without epoch", {"type": "join", "id": 1, "room": "lobby", "since": {"offset": 1}}, "bad_request"),
    ("join: since without offset", {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "e"}}, "bad_request"),
    ("join: offset below 0", {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "e", "offset": -1}},
     "bad_request"),
    ("join: offset is text", {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "e", "offset": "1"}},
     "bad_request"),
    ("join: epoch too long", {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "e" * 65, "offset": 1}},
     "bad_request"),
    ("leave: no room", {"type": "leave", "id": 1}, "bad_request"),
    ("leave: not joined", {"type": "leave", "id": 1, "room": "elsewhere"}, "not_joined"),
    ("say: no text", {"type": "say", "id": 1, "room": "lobby"}, "bad_request"),
    ("say: text is empty", {"type": "say", "id": 1, "room": "lobby", "text": ""}, "bad_request"),
    ("say: text is a number", {"type": "say", "id": 1, "room": "lobby", "text": 5}, "bad_request"),
    ("say: text is a list", {"type": "say", "id": 1, "room": "lobby", "text": ["x"]}, "bad_request"),
    ("say: text too long", {"type": "say", "id": 1, "room": "lobby", "text": "가" * 501}, "too_large"),
    ("say: nonce too long", {"type": "say", "id": 1, "room": "lobby", "text": "x", "nonce": "n" * 65}, "bad_request"),
    ("say: nonce is empty", {"type": "say", "id": 1, "room": "lobby", "text": "x", "nonce": ""}, "bad_request"),
    ("say: nonce is a number", {"type": "say", "id": 1, "room": "lobby", "text": "x", "nonce": 5}, "bad_request"),
    ("say: not joined", {"type": "say", "id": 1, "room": "elsewhere", "text": "x", "nonce": "n"}, "not_joined"),
    ("history: limit 0", {"type": "history", "id": 1, "room": "lobby", "limit": 0}, "bad_request"),
    ("history: limit 101", {"type": "history", "id": 1, "room": "lobby", "limit": 101}, "bad_request"),
    ("history: limit is text", {"type": "history", "id": 1, "room": "lobby", "limit": "5"}, "bad_request"),
    ("history: before is below 0", {"type": "history", "id": 1, "room": "lobby", "before": -1}, "bad_request"),
    ("history: before is huge", {"type": "history", "id": 1, "room": "lobby", "before": 1 << 60}, "bad_request"),
    ("history: not joined", {"type": "history", "id": 1, "room": "elsewhere", "limit": 5}, "not_joined"),
    ("presence: no room", {"type": "presence", "id": 1}, "bad_request"),
    ("presence: not joined", {"type": "presence", "id": 1, "room": "elsewhere"}, "not_joined"),
    ("auth: no token", {"type": "auth", "id": 1}, "bad_request"),
    ("auth: token is a number", {"type": "auth", "id": 1, "token": 5}, "bad_request"),
    ("auth: token is empty", {"type": "auth", "id": 1, "token": ""}, "bad_request"),
    ("auth: client is text", {"type": "auth", "id": 1, "token": "x", "client": "me"}, "bad_request"),
]  # fmt: skip


async def test_every_bad_frame_has_its_error_and_the_connection_goes_on(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    for about, frame, code in BAD_FRAMES:
        await client.socket.send(json.dumps(frame))
        answer = await client.error()
        id = frame.get("id")
        assert (answer["type"], answer["code"]) == ("error", code), about
        assert answer["id"] == (id if type(id) is int and id < 1 << 63 else None), about
        assert answer["message"], about
        assert answer["temporary"] is False, about
    assert (await client.say("lobby", "still here"))["type"] == "ok"


BROKEN: list[tuple[str, str | bytes, int]] = [
    ("not JSON", "hello", 4500),
    ("empty", "", 4500),
    ("half an object", '{"type":"ping"', 4500),
    ("two objects", '{"type":"ping","id":1}{"type":"ping","id":2}', 4500),
    ("a list", "[1]", 4500),
    ("a number", "7", 4500),
    ("text", '"ping"', 4500),
    ("null", "null", 4500),
    ("NaN", '{"type":"ping","id":NaN}', 4500),
    ("too deep", "[" * 8000, 4500),
    ("binary", b'{"type":"ping","id":1}', 4500),
    ("too large", '{"type":"ping","id":1,"x":"' + "x" * 16384 + '"}', 1009),
]


@pytest.mark.parametrize(("message", "code"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
async def test_what_is_no_frame_at_all_closes(chat: Chat, node: RunningNode, message: str | bytes, code: int) -> None:
    client = await chat.client(node, "u1", "lobby")
    await client.socket.send(message)
    assert await client.close_code() == code


async def test_fields_nobody_knows_are_ignored(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    assert (await client.ask("ping", colour="blue"))["type"] == "pong"
    assert (await client.say("lobby", "x", since=7, colour={"r": 1}))["type"] == "ok"


async def test_a_pong_is_not_answered(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node)
    await client.send(type="pong")
    await client.send(type="pong", id=5)
    answer = await client.ask("ping")
    assert answer["type"] == "pong"
    assert client.seen("error") == []


async def test_a_text_cut_inside_an_emoji_is_a_bad_field_and_closes_nothing(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    await client.socket.send('{"type":"say","id":70,"room":"lobby","text":"cut emoji \\ud83d"}')
    answer = await client.answer(70)
    assert (answer["type"], answer["code"]) == ("error", "bad_request")
    await client.socket.send('{"type":"\\ud83d","id":71,"\\ud83d":1}')
    assert (await client.answer(71))["code"] == "bad_request"
    assert (await client.say("lobby", "whole"))["type"] == "ok"
