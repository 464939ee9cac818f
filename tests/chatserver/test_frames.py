from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from bridge.chat.state import Sanction
from bridge.envelope import Publication
from chatserver import frames
from chatserver.frames import NotAFrame, Refused, Say, decode_frame, decode_object, encode, push_of

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NAMES = ["type", "id", "room", "text", "nonce", "since", "limit", "before", "token", "client"]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_no_frame(message: bytes) -> None:
    try:
        assert isinstance(decode_object(message), dict)
    except NotAFrame:
        pass


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), json_values), st.sampled_from([*frames.CLIENT_FRAMES, "shout"]))
def test_any_object_is_a_frame_or_refused(value: dict[str, Any], type: str) -> None:
    refused = None
    try:
        decode_frame({**value, "type": type})
    except Refused as error:
        refused = error
    if refused is not None:
        answer = orjson.loads(_payload(frames.error(refused)))
        assert answer["message"]
        assert (answer["code"], answer["temporary"]) == ("bad_request", False)


def test_unknown_fields_are_ignored() -> None:
    frame = decode_frame({"type": "say", "id": 1, "room": "lobby", "text": "x", "colour": "blue"})
    assert frame == Say(id=1, room="lobby", text="x", nonce=None)


@pytest.mark.parametrize("size", [0, 1, 100, 125, 126, 65_000, 70_000])
def test_a_frame_is_one_websocket_text_frame(size: int) -> None:
    assert orjson.loads(_payload(encode({"x": "y" * size}))) == {"x": "y" * size}


def _payload(raw: bytes) -> bytes:
    """What a websocket client reads of it."""
    reader = StreamReader()
    reader.feed_data(raw)
    with pytest.raises(StopIteration) as parsed:
        next(Frame.parse(reader.read_exact, mask=False))
    frame = parsed.value.value
    assert (frame.opcode, frame.fin) == (Opcode.TEXT, True)
    return bytes(frame.data)


EPOCH = "0123456789abcdef01234567"


def publication(type: str, data: dict[str, Any]) -> Publication:
    return Publication("room:lobby", EPOCH, 7, type, 1000, data)


@pytest.mark.parametrize(
    ("type", "data", "push"),
    [
        (
            "message",
            {"user": "u1", "name": "Ann", "text": "hi"},
            {"message_id": "7-01234567", "user": "u1", "name": "Ann", "text": "hi", "ts": 1000},
        ),
        (
            "notice",
            {"level": "info", "text": "hear", "by": "op"},
            {"message_id": "7-01234567", "level": "info", "text": "hear", "ts": 1000},
        ),
        ("deleted", {"message_ids": ["5-01234567"], "by": "op"}, {"message_ids": ["5-01234567"]}),
        (
            "room",
            {"state": "frozen", "slow_mode_s": 5, "title": "T"},
            {"state": "frozen", "slow_mode_s": 5, "title": "T"},
        ),
    ],
)
def test_members_see_what_is_published(type: str, data: dict[str, Any], push: dict[str, Any]) -> None:
    shown = push_of("lobby", publication(type, data))
    assert shown == {"type": type, "room": "lobby", "epoch": EPOCH, "offset": 7, **push}


def test_who_deleted_is_not_for_members() -> None:
    assert "by" not in (push_of("lobby", publication("deleted", {"message_ids": [], "by": "op"})))


def test_a_publication_of_a_plugin_s_type_is_shown_as_it_is() -> None:
    assert push_of("lobby", publication("loot.drop", {"item": "sword"})) == {
        "type": "loot.drop", "room": "lobby", "epoch": EPOCH, "offset": 7, "data": {"item": "sword"}, "ts": 1000,
    }  # fmt: skip


@pytest.mark.parametrize("type", ["message", "notice", "deleted", "room"])
@pytest.mark.parametrize("data", [{"item": "sword"}, {"text": "x"}, [], None, {"message_ids": [1]}])
def test_so_is_one_that_only_has_a_name_of_ours(type: str, data: Any) -> None:
    assert push_of("lobby", publication(type, data)) == {
        "type": type, "room": "lobby", "epoch": EPOCH, "offset": 7, "data": data, "ts": 1000,
    }  # fmt: skip


def test_deleted_messages_keep_their_place_and_lose_their_text() -> None:
    message = publication("message", {"user": "u1", "name": "Ann", "text": "hi"})
    push = push_of("lobby", message, {"7-01234567": "op"})
    assert (push["offset"], push["text"]) == (7, None)


def test_a_sanction_shows_what_its_user_needs() -> None:
    event = {
        "kind": "warn", "user": "u1", "room": None, "until": None, "reason": None, "by": "op", "command_id": "1-2-3",
        "text": "mind your words",
    }  # fmt: skip
    push = orjson.loads(_payload(frames.sanction_push(event)))
    assert push == {
        "type": "sanction", "kind": "warn", "room": None, "until": None, "reason": "mind your words",
        "command_id": "1-2-3", "text": "mind your words",
    }  # fmt: skip
    shown = frames.sanction_shown(Sanction("mute", "u1", "lobby", 1, 2, "spam", "op", "1-2-3"))
    assert "by" not in shown
    assert shown["until"] == 2
