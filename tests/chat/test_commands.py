from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.chat import commands
from bridge.errors import InvalidPayload
from bridge.registry import default

OF_USER = ("member.mute", "member.ban", "member.unmute", "member.unban", "member.kick")
FOR_A_WHILE = ("member.mute", "member.ban")
EMPTY = ("user.unmute", "user.unban", "user.kick", "room.close", "room.freeze", "room.unfreeze", "room.clear")
SUBJECTS = {
    **dict.fromkeys((*OF_USER, "room.open", "room.close", "room.freeze", "room.unfreeze", "room.slow_mode"), "room"),
    **dict.fromkeys(("room.clear", "message.delete", "notice.post"), "room"),
    **dict.fromkeys(("user.mute", "user.unmute", "user.ban", "user.unban", "user.kick", "user.warn"), "user"),
}


def validate(type: str, payload: Any) -> Any:
    return default.get(type).validate(orjson.dumps(payload))


def faults(type: str, payload: Any) -> list[str]:
    with pytest.raises(InvalidPayload) as refused:
        validate(type, payload)
    return [path for path, _, _ in refused.value.faults]


@pytest.mark.parametrize(("type", "kind"), SUBJECTS.items())
def test_every_command_is_registered_for_its_kind_of_subject(type: str, kind: str) -> None:
    known = default.get(type)
    assert known.subject == kind
    assert not known.plugin
    assert known.model.__doc__


@pytest.mark.parametrize(
    ("type", "payload"),
    [
        *((type, {"user": "u7"}) for type in OF_USER),
        *((type, {"user": "A.b_c@d+e-f", "seconds": 315_360_000}) for type in FOR_A_WHILE),
        *((type, {"user": "u7", "seconds": None}) for type in FOR_A_WHILE),
        *((type, {}) for type in EMPTY),
        ("user.mute", {}),
        ("user.mute", {"seconds": 1, "shadow": True}),
        ("user.ban", {"seconds": None}),
        ("user.warn", {"text": "가" * 1000}),
        ("room.open", {}),
        ("room.open", {"title": "A room"}),
        ("room.slow_mode", {"seconds": 0}),
        ("message.delete", {"message_ids": ["1-abcdef"] * 200}),
        ("message.delete", {"user": "u7", "since": 0}),
        ("message.delete", {"user": "u7", "since": "2026-02-01T10:00:00.5+09:00"}),
        ("notice.post", {"text": "x"}),
        ("notice.post", {"text": "x", "level": "warning"}),
    ],
)
def test_good_payloads_are_taken(type: str, payload: dict[str, Any]) -> None:
    validate(type, payload)


@pytest.mark.parametrize(
    ("type", "payload", "paths"),
    [
        *((type, {}, ["/user"]) for type in OF_USER),
        *((type, {"user": "u7", "extra": 1}, ["/extra"]) for type in OF_USER),
        *((type, {"reason": "x"}, ["/reason"]) for type in EMPTY),
        ("member.mute", {"user": "", "seconds": 0}, ["/seconds", "/user"]),
        ("member.mute", {"user": "u7\n"}, ["/user"]),
        ("member.mute", {"user": "user:u7"}, ["/user"]),
        ("member.mute", {"user": "u" * 65}, ["/user"]),
        ("member.mute", {"user": 7}, ["/user"]),
        ("member.mute", {"user": None}, ["/user"]),
        *(("member.mute", {"user": "u7", "seconds": s}, ["/seconds"]) for s in (0, -1, 315_360_001, 1.0, True, "60")),
        ("member.kick", {"user": "u7", "seconds": 5}, ["/seconds"]),
        ("user.ban", {"shadow": True}, ["/shadow"]),
        ("user.mute", {"shadow": 1}, ["/shadow"]),
        ("user.mute", {"shadow": None}, ["/shadow"]),
        ("user.warn", {}, ["/text"]),
        ("user.warn", {"text": ""}, ["/text"]),
        ("user.warn", {"text": "x" * 1001}, ["/text"]),
        ("room.open", {"title": ""}, ["/title"]),
        ("room.close", {"title": "x"}, ["/title"]),
        ("room.slow_mode", {}, ["/seconds"]),
        ("room.slow_mode", {"seconds": None}, ["/seconds"]),
        ("room.slow_mode", {"seconds": -1}, ["/seconds"]),
        ("message.delete", {}, [""]),
        ("message.delete", {"user": "u7"}, [""]),
        ("message.delete", {"since": 5}, [""]),
        ("message.delete", {"message_ids": ["1-abcdef"], "user": "u7", "since": 5}, [""]),
        ("message.delete", {"message_ids": []}, ["/message_ids"]),
        ("message.delete", {"message_ids": ["1-abcdef"] * 201}, ["/message_ids"]),
        (
            "message.delete",
            {"message_ids": ["1-abcdef", "x y", 5, "x" * 65, ""]},
            [f"/message_ids/{i}" for i in (1, 2, 3, 4)],
        ),
        *(
            ("message.delete", {"user": "u7", "since": s}, ["/since"])
            for s in (-1, True, 1.5, "5", "yesterday", "2026-02-31T00:00:00Z", "2026-02-01T00:00:00", [], {})
        ),
        ("notice.post", {"text": "x", "level": "error"}, ["/level"]),
        ("notice.post", {"text": "x", "level": None}, ["/level"]),
    ],
)
def test_bad_payloads_are_refused_with_every_fault(type: str, payload: dict[str, Any], paths: list[str]) -> None:
    assert sorted(faults(type, payload)) == paths


@pytest.mark.parametrize("payload", [[], "x", 5, None, True])
def test_a_payload_is_an_object(payload: Any) -> None:
    assert faults("room.close", payload) == [""]


@settings(deadline=None)
@given(st.text(max_size=70))
def test_an_id_is_what_the_rules_say_and_nothing_else(text: str) -> None:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+-")
    good = 1 <= len(text) <= 64 and set(text) <= allowed
    try:
        commands.MemberKick(user=text)
        assert good
    except ValueError:
        assert not good


@settings(deadline=None)
@given(st.datetimes(timezones=st.timezones()).filter(lambda d: d.year > 1971))
def test_a_time_may_be_written_in_any_zone(moment: Any) -> None:
    text = moment.isoformat()
    if text.count(":") > 3:  # zones of the nineteenth century have seconds; RFC 3339 has none
        return
    payload = commands.MessageDelete.model_validate_json(orjson.dumps({"user": "u7", "since": text}))
    assert payload.since == int(moment.timestamp() * 1000)
