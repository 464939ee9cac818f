"""What handlers may ask for, and what is refused before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.effects import MAX_ARGUMENTS, MAX_BYTES, BadEffects, Broadcast, Effects, Write


@pytest.mark.parametrize(
    ("effects", "write"),
    [
        (Effects().set("n", "v"), Write("SET", "n", (b"v",))),
        (Effects().set("n", "v", seconds=1.5), Write("SET", "n", (b"v", b"PX", b"1500"))),
        (Effects().set("n", "v", seconds=0), Write("DEL", "n", ())),
        (Effects().set("n", "v", seconds=-5), Write("DEL", "n", ())),
        (Effects().delete("n"), Write("DEL", "n", ())),
        (Effects().hset("n", "f", {"a": 1}), Write("HSET", "n", (b"f", b'{"a":1}'))),
        (Effects().hdel("n", "f", "g"), Write("HDEL", "n", (b"f", b"g"))),
        (Effects().hincrby("n", "f", -3), Write("HINCRBY", "n", (b"f", b"-3"))),
        (Effects().incr("n"), Write("INCRBY", "n", (b"1",))),
        (Effects().zadd("n", "m", 1.5), Write("ZADD", "n", (b"1.5", b"m"))),
        (Effects().zadd("n", "m", math.inf), Write("ZADD", "n", (b"inf", b"m"))),
        (Effects().zrem("n", "m"), Write("ZREM", "n", (b"m",))),
        (Effects().xadd("n", {"f": 1}, 10), Write("XADD", "n", (b"MAXLEN", b"~", b"10", b"*", b"f", b"1"))),
        (Effects().set("n", "v", shared=True), Write("SET", "n", (b"v",), shared=True)),
    ],
)
def test_each_method_asks_for_one_write(effects: Effects, write: Write) -> None:
    assert effects.writes == [write]


@pytest.mark.parametrize("nothing", [Effects().hdel("n"), Effects().zrem("n")])
def test_removing_nothing_asks_for_nothing(nothing: Effects) -> None:
    assert nothing.writes == []


@pytest.mark.parametrize(
    ("value", "stored"),
    [("é", "é".encode()), (b"\xff", b"\xff"), (True, b"true"), (None, b"null"), (0.1, b"0.1"), ([1, "a"], b'[1,"a"]')],
)
def test_values_are_stored_as_told(value: object, stored: bytes) -> None:
    assert Effects().set("n", value).writes[0].arguments == (stored,)  # type: ignore[arg-type]


@given(st.integers())
def test_integers_keep_every_digit(number: int) -> None:
    assert int(Effects().set("n", number).writes[0].arguments[0]) == number


@given(st.integers())
def test_only_increments_of_64_bits_are_accepted(by: int) -> None:
    fits = -(2**63) <= by < 2**63
    try:
        Effects().hincrby("n", "f", by)
    except BadEffects:
        assert not fits
    else:
        assert fits


def test_broadcasts_keep_their_order_and_channel() -> None:
    effects = Effects().publish("a", {"x": 1}).publish("b", {}, channel="control")
    assert effects.broadcasts == [Broadcast(None, "a", b'{"x":1}'), Broadcast("control", "b", b"{}")]


def test_facts_gather() -> None:
    assert Effects().result(a=1).result(b=2, a=3).facts == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    "ask",
    [
        lambda e: e.set("n", object()),
        lambda e: e.set("n", {"x": {1, 2}}),
        lambda e: e.set("", "v"),
        lambda e: e.set("commands", "v", shared=True),
        lambda e: e.set("outcome:7-1-1", "v", shared=True),
        lambda e: e.set("\ud800", "v"),
        lambda e: e.set("n", "v", seconds=1e18),
        lambda e: e.set("n", "v", seconds=math.nan),
        lambda e: e.xadd("n", {}, 10),
        lambda e: e.xadd("n", {"f": 1}, -1),
        lambda e: e.zadd("n", "m", math.nan),
        lambda e: e.publish("bad type", {}),
        lambda e: e.publish('"', {}),
        lambda e: e.publish("t", {}, channel='x"y'),
        lambda e: e.publish("t", {"x": object()}),
        lambda e: e.result(x=object()),
        lambda e: e.result(x="\ud800"),
        lambda e: e.set("n", b"x" * (MAX_BYTES + 1)),
        lambda e: e.hdel("n", *["f"] * MAX_ARGUMENTS),
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(ask: Callable[[Effects], object]) -> None:
    with pytest.raises(BadEffects):
        ask(Effects())


def test_the_limits_are_those_of_all_effects_together() -> None:
    effects = Effects()
    for _ in range(MAX_ARGUMENTS // 4):
        effects.set("n", "v")
    with pytest.raises(BadEffects, match="may have 1000 arguments"):
        effects.set("n", "v")
