from __future__ import annotations

import orjson
import pytest

from bridge.chat.events import check_broadcast, message_id, sanction_event
from bridge.errors import InvalidPayload, UnknownType


def test_defaults_of_a_broadcast_are_filled_in() -> None:
    assert check_broadcast("notice.flash", b'{"text":"x"}') == {"text": "x", "level": "info", "seconds": None}
    assert check_broadcast("config.reload", b"{}") == {}
    assert check_broadcast("cache.drop", b'{"what":"rooms"}') == {"what": "rooms"}


@pytest.mark.parametrize(
    ("type", "payload"),
    [
        ("notice.flash", {}),
        ("notice.flash", {"text": "", "level": "info"}),
        ("notice.flash", {"text": "x", "level": "loud"}),
        ("notice.flash", {"text": "x", "seconds": 0}),
        ("notice.flash", {"text": "x", "room": "lobby"}),
        ("config.reload", {"what": "words"}),
        ("cache.drop", {}),
        ("cache.drop", {"what": "everything"}),
    ],
)
def test_a_bad_broadcast_is_refused(type: str, payload: dict[str, object]) -> None:
    with pytest.raises(InvalidPayload):
        check_broadcast(type, orjson.dumps(payload))


def test_a_command_is_no_broadcast() -> None:
    with pytest.raises(UnknownType):
        check_broadcast("room.open", b"{}")


def test_the_offset_can_be_read_off_a_message_s_id() -> None:
    assert message_id("0123456789abcdef01234567", 42) == "42-01234567"


def test_a_shadow_shows_in_the_event_of_shadow_mutes_only() -> None:
    event = sanction_event("mute", user="u7", room=None, command_id="1-2-3")
    assert "shadow" not in event
    assert sanction_event("mute", user="u7", room=None, command_id="1-2-3", shadow=True) == {**event, "shadow": True}
