"""What the Python client judges by: plain values in, a verdict out."""

from __future__ import annotations

import random

import pytest

from bridge.chat.client_events import Connected, Event, Lagged, Message
from bridge.chat.client_queue import LEAST, EventQueue
from bridge.chat.client_retry import NoUrl, Route, backoff
from bridge.chat.client_rooms import Order, order
from bridge.chat.client_tokens import Tokens, expiry
from bridge.errors import Misconfigured
from tests.chatserver.client import token


@pytest.mark.parametrize(
    ("offset", "message_id", "last", "verdict"),
    [
        (8, "8-ab", 7, Order.NEXT),
        (7, "7-ab", 7, Order.SEEN),
        (3, "3-ab", 7, Order.SEEN),
        (9, "9-ab", 7, Order.JUMP),
        (7, "5007-ab", 7, Order.ASIDE),
        (8, "80-ab", 7, Order.ASIDE),
    ],
)
def test_an_event_is_next_seen_a_jump_or_aside(offset: int, message_id: str, last: int, verdict: Order) -> None:
    message = Message("lobby", offset, message_id, "u1", "u1", "hello", 0)
    assert order(message, offset, last) is verdict


def test_pauses_are_anything_up_to_a_bound_that_doubles_and_ends() -> None:
    rng = random.Random(1)
    for attempt, bound in ((0, 0.5), (1, 1.0), (4, 8.0), (6, 20.0), (10_000, 20.0)):
        pauses = [backoff(attempt, rng) for _ in range(500)]
        assert max(pauses) <= bound
        assert min(pauses) < bound * 0.05
        assert sum(pauses) / 500 == pytest.approx(bound / 2, rel=0.15)


def test_every_other_node_is_tried_before_pauses_grow() -> None:
    rng, urls = random.Random(1), ["a", "b", "c", "d"]
    for _ in range(100):
        route = Route(urls, rng)
        lost = route.next()
        route.went_well()
        others = [route.next() for _ in range(3)]
        assert sorted([lost, *others]) == urls
        assert route.pause() <= 0.5
        assert route.next() != others[-1]
    for _ in range(20):
        route.next()
    assert max(route.pause() for _ in range(100)) > 4
    route.went_well()
    assert max(route.pause() for _ in range(100)) <= 0.5


@pytest.mark.parametrize(("fault", "told"), [([], "is empty"), ([1], "ZeroDivisionError")])
def test_a_list_of_nodes_may_be_empty_or_fail_for_a_while(fault: list[int], told: str) -> None:
    urls: list[str] = []

    def listed() -> list[str]:
        return urls if urls else [str(1 // 0) for _ in fault]

    route = Route(listed, random.Random(1))
    for _ in range(20):
        with pytest.raises(NoUrl, match=told):
            route.next()
    assert max(route.pause() for _ in range(100)) > 4
    urls.append("a")
    assert route.next() == "a"


def test_no_node_at_all_is_refused() -> None:
    for nothing in ([], ""):
        with pytest.raises(Misconfigured, match="ws://HOST:PORT/ws"):
            Route(nothing, random.Random(1))


def test_a_list_of_nodes_may_change_and_may_have_one() -> None:
    urls = ["a"]
    route = Route(lambda: urls, random.Random(1))
    assert [route.next() for _ in range(3)] == ["a"] * 3
    urls.append("b")
    assert route.next() == "b"
    assert Route("a", random.Random(1)).next() == "a"


@pytest.mark.parametrize("text", ["", "opaque", "a.b.c", "a.e30.c", "a.W10.c", "a.eyJleHAiOiJ4In0.c"])
def test_the_end_of_what_is_no_jwt_is_not_known(text: str) -> None:
    assert expiry(text) is None


async def test_a_token_is_kept_for_most_of_its_life() -> None:
    now, asked = 1000.0, 0

    def source() -> str:
        nonlocal asked
        asked += 1
        return token(exp=now + 100)

    tokens = Tokens(source, clock=lambda: now)
    first = await tokens.get()
    assert tokens.renew_in() == pytest.approx(80)
    now += 79
    assert await tokens.get() == first
    assert tokens.kept
    now += 2
    assert await tokens.get() != first
    assert (asked, tokens.kept) == (2, False)
    tokens.forget()
    await tokens.get()
    assert asked == 3


@pytest.mark.parametrize("ahead_s", [-7200, 7200])
async def test_a_token_is_kept_for_most_of_its_life_by_the_nodes_clock(ahead_s: float) -> None:
    now = 1_000_000.0
    tokens = Tokens(lambda: token(exp=now + 3600), clock=lambda: now + ahead_s)
    await tokens.get()
    tokens.told(now)
    assert tokens.renew_in() == pytest.approx(2880)
    now += 2881
    assert tokens.renew_in() == 0


async def test_a_token_that_is_a_string_is_never_renewed() -> None:
    tokens = Tokens(token(seconds=1))
    assert await tokens.get() == await tokens.get()
    assert tokens.renew_in() is None


async def test_what_did_not_fit_the_queue_is_told_where_it_is_missing() -> None:
    queue = EventQueue(LEAST)
    events: list[Event] = [Connected(str(number), "node-a", "s") for number in range(LEAST + 5)]
    assert [queue.put(event) for event in events[:LEAST]] == [True] * LEAST
    assert not queue.put(events[LEAST])
    for event in events[LEAST:]:
        queue.offer(event)
    assert [await queue.get() for _ in range(2)] == events[:2]
    assert queue.put(events[-1])
    assert [await queue.get() for _ in range(LEAST)] == [*events[2:LEAST], Lagged(5), events[-1]]


def test_a_queue_too_short_to_get_on_is_refused() -> None:
    with pytest.raises(ValueError, match="max_events=9: at least 10"):
        EventQueue(LEAST - 1)
