"""Commands, outcomes and publications, there and back."""

from __future__ import annotations

import string

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.envelope import (
    ENDED,
    MAX_ENTRY_BYTES,
    RESERVED_BYTES,
    YEAR_10000,
    BadEntry,
    Envelope,
    Step,
    check_subject,
    decode,
    decode_or_stand_in,
    decode_publication,
    depth,
    shard_of_id,
)
from bridge.errors import Invalid, TooLarge
from bridge.record import Failure, outcome_from_json, outcome_head, outcome_rest

ENVELOPE = Envelope(
    "7-1795301838720-41", "1795301838720-41", 7, "item.grant", "user:42", b'{"item":"sword"}', "shop", 5
)

ids = st.text(string.ascii_letters + string.digits + "._@+-", min_size=1, max_size=64)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
maybe = st.none() | text
envelopes = st.builds(
    lambda ms, seq, **fields: Envelope(f"7-{ms}-{seq}", f"{ms}-{seq}", 7, **fields),
    ms=st.integers(1, 10**13),
    seq=st.integers(0, 2**53),
    type=st.from_regex(r"[a-z][a-z0-9_]{0,20}\.[a-z0-9_]{1,20}", fullmatch=True),
    subject=st.builds("{}:{}".format, st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), ids),
    payload=st.dictionaries(text, st.integers() | text | st.booleans()).map(str).map(str.encode),
    by=text.filter(lambda by: 0 < len(by) <= 100),
    at=st.integers(0, YEAR_10000 - 1),
    reason=maybe,
    expires=st.none() | st.integers(0, YEAR_10000 - 1),
    idem=st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200),
    origin=st.none() | st.builds("7-{}-{}".format, st.integers(1, 10**13), st.integers(0, 2**53)),
    traceparent=maybe,
)


def fields(**changes: bytes | None) -> list[bytes]:
    """A good entry but for ``changes``; None leaves a field out."""
    entry: dict[str, bytes | None] = {
        "v": b"1", "type": b"item.grant", "subject": b"user:42", "payload": b"{}", "by": b"shop", "at": b"5", **changes,
    }  # fmt: skip
    return [part for name, value in entry.items() if value is not None for part in (name.encode(), value)]


@given(envelopes)
def test_a_command_comes_back_as_it_went(envelope: Envelope) -> None:
    assert decode(7, envelope.entry_id, envelope.fields()) == envelope


def test_the_moment_of_acceptance_is_in_the_id() -> None:
    assert ENVELOPE.accepted_at == 1795301838720


def test_an_entry_that_was_written_again_keeps_its_public_id() -> None:
    assert decode(7, "9-9", fields(id=b"7-5-5")).id == "7-5-5"


def test_a_trace_that_nobody_can_follow_keeps_no_command_from_being_handled() -> None:
    assert decode(7, "9-9", fields(traceparent=b"xx")).type


@pytest.mark.parametrize("name", ["type", "subject", "payload", "by", "at"])
def test_a_missing_field_makes_an_entry_undecodable(name: str) -> None:
    with pytest.raises(BadEntry, match=f"'{name}' is missing") as caught:
        decode(7, "9-9", fields(**{name: None}))
    assert caught.value.code == "undecodable"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": b"Item.Grant"}, {"type": b"grant"}, {"type": b"a." + b"b" * 63}, {"type": b"item.grant\n"},
        {"subject": b"user"}, {"subject": b"user:"}, {"subject": b"User:1"}, {"subject": b"user:a b"},
        {"subject": b"user:" + b"x" * 65}, {"subject": b"user:1\n"}, {"subject": "user:é".encode()},
        {"by": b"\xff"}, {"reason": b"\xff\xfe"}, {"at": b"soon"}, {"at": b"-1"}, {"at": b"9" * 30},
        {"expires": b""}, {"expires": b"1.5"}, {"expires": b"9" * 5000}, {"expires": b"9" * 20},
        {"id": b"8-1-1"}, {"id": b"1-1"}, {"id": b"7-1-1 "}, {"id": b"\xff"},
        {"idem": b""}, {"idem": b"a b"}, {"idem": b"x" * 201}, {"idem": "é".encode()},
        {"origin": b""}, {"origin": b"zz"}, {"origin": b"7-1"}, {"origin": b"7-1-1\n"},
    ],
)  # fmt: skip
def test_a_malformed_field_makes_an_entry_undecodable(changes: dict[str, bytes]) -> None:
    with pytest.raises(BadEntry) as caught:
        decode(7, "9-9", fields(**changes))
    assert caught.value.code == "undecodable"


@pytest.mark.parametrize(
    ("version", "code"), [(None, "undecodable"), (b"2", "unknown_version"), (b"", "unknown_version")]
)
def test_another_schema_version_is_told_from_none(version: bytes | None, code: str) -> None:
    with pytest.raises(BadEntry) as caught:
        decode(7, "9-9", fields(v=version))
    assert caught.value.code == code


def test_an_entry_over_the_limit_is_too_large() -> None:
    with pytest.raises(BadEntry) as caught:
        decode(7, "9-9", fields(payload=b"x" * MAX_ENTRY_BYTES))
    assert caught.value.code == "too_large"


def test_a_command_over_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(TooLarge):
        ENVELOPE._replace(payload=b"x" * MAX_ENTRY_BYTES).fields()


def test_the_largest_command_that_is_sent_can_be_read() -> None:
    rest = sum(map(len, ENVELOPE._replace(payload=b"").fields()))
    largest = ENVELOPE._replace(payload=b"x" * (MAX_ENTRY_BYTES - RESERVED_BYTES - rest))
    assert decode(7, ENVELOPE.entry_id, largest.fields()) == largest


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=50)), max_size=10))
def test_no_entry_of_a_stranger_raises_anything_but_its_cause(pairs: list[tuple[bytes, bytes]]) -> None:
    flat = [part for pair in pairs for part in pair]
    envelope, fault = decode_or_stand_in(7, "9-9", flat)
    assert envelope.entry_id == "9-9"
    assert fault is not None
    assert orjson.loads(outcome_head(envelope, node=None, attempts=0, timeline=[]) + b"]}")


@pytest.mark.parametrize("subject", ["user:42", "room:lobby", "a:A.b_c@d+e-f", "x1_:0"])
def test_good_subjects_pass(subject: str) -> None:
    check_subject(subject)


@pytest.mark.parametrize("subject", ["", "user", ":1", "user:", "user:a:b", "Ü:1", "user:{1}", "user:1\n"])
def test_bad_subjects_are_refused_with_the_rule(subject: str) -> None:
    with pytest.raises(Invalid, match="write kind:id") as caught:
        check_subject(subject)
    assert caught.value.path == "/subject"


def test_a_subject_of_another_kind_is_refused() -> None:
    with pytest.raises(Invalid, match="this type is for room"):
        check_subject("user:42", kind="room")


def test_a_command_id_names_its_shard() -> None:
    assert shard_of_id("63-1795301838720-41") == 63


@pytest.mark.parametrize("id", ["", "1-2", "a-1-2", "1-2-3-4", "-1-2-3", "1-2-3\n", "٣-1-2", "999999-1-2"])
def test_anything_else_is_no_command_id(id: str) -> None:
    with pytest.raises(Invalid):
        shard_of_id(id)


def test_an_outcome_comes_back_as_it_was_recorded() -> None:
    head = outcome_head(
        ENVELOPE, node="node-a", attempts=2, timeline=[Step("accepted", 1), Step("handling", 2, "node-a")]
    )
    outcome = outcome_from_json(head + outcome_rest("done", 3, "node-a", result={"granted": 9007199254740993}))
    assert outcome.result == {"granted": 9007199254740993}
    assert outcome.payload == {"item": "sword"}
    assert outcome.timeline == (Step("accepted", 1), Step("handling", 2, "node-a"), Step("done", 3, "node-a"))
    assert (outcome.state, outcome.attempts, outcome.error, outcome.ended) == ("done", 2, None, True)


def test_a_failed_outcome_says_why() -> None:
    head = outcome_head(ENVELOPE, node=None, attempts=1, timeline=[Step("accepted", 1)], readable=False)
    outcome = outcome_from_json(head + outcome_rest("dead", 3, None, error=Failure("timed_out", 'too "slow"', 3)))
    assert outcome.error == Failure("timed_out", 'too "slow"', 3)
    assert (outcome.payload, outcome.result) == (None, None)


def test_an_outcome_is_read_with_fields_to_come() -> None:
    head = outcome_head(ENVELOPE, node=None, attempts=1, timeline=[Step("accepted", 1)])
    record = head + outcome_rest("done", 3, None, control=True)
    outcome = outcome_from_json(record[:-1] + b',"new":1}')
    assert (outcome.state, outcome.control) == ("done", True)


def test_five_states_are_ends() -> None:
    assert frozenset({"done", "rejected", "expired", "dead", "cancelled"}) == ENDED


def test_a_publication_is_read_with_fields_to_come() -> None:
    message = b'{"channel":"room:a","epoch":"e","offset":3,"type":"message","at":4,"data":{"x":1},"new":true}'
    publication = decode_publication(message)
    assert (publication.channel, publication.offset, publication.data) == ("room:a", 3, {"x": 1})


@pytest.mark.parametrize(("value", "deep"), [(1, 0), ([1], 1), ({"a": [1]}, 2), ({"a": [{"b": 1}]}, 3)])
def test_depth_counts_lists_and_objects(value: object, deep: int) -> None:
    assert depth(value) == deep


def test_depth_of_a_deep_value_needs_no_recursion() -> None:
    value: object = 0
    for _ in range(100_000):
        value = [value]
    assert depth(value) == 100_000
    while isinstance(value, list):  # freeing it at once would recurse
        value = value.pop()
