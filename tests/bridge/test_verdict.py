"""What becomes of an entry, by table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.effects import BadEffects, Effects
from bridge.errors import Rejected, Retry
from bridge.verdict import (
    MAX_BACKOFF_S,
    Again,
    Bury,
    Done,
    Limits,
    Refuse,
    Verdict,
    backoff,
    describe,
    judge,
    must_bury,
    must_run_alone,
)

LIMITS = Limits(attempts=3, deaths=3, backoff_s=0.2)
ASKED = Effects().set("n", "v")


@pytest.mark.parametrize(
    ("result", "failures", "verdict"),
    [
        (ASKED, 0, Done(ASKED)),
        (ASKED, 9, Done(ASKED)),
        (Rejected("no such item"), 0, Refuse("no such item")),
        (Rejected("no such item"), 9, Refuse("no such item")),
        (Rejected(), 0, Refuse("the handler refused")),
        (BadEffects("too many"), 0, Bury("effects_failed", "too many")),
        (ValueError("x"), 0, Again(0.2, "ValueError: x")),
        (ValueError("x"), 1, Again(0.4, "ValueError: x")),
        (ValueError("x"), 2, Bury("attempts_used_up", "ValueError: x on attempt 3 of 3")),
        (TimeoutError("too slow"), 0, Again(0.2, "TimeoutError: too slow")),
        (TimeoutError("too slow"), 2, Bury("timed_out", "too slow on attempt 3 of 3")),
        (Retry(7.5), 1, Again(7.5, "the handler asked for another try")),
        (Retry(0), 1, Again(0, "the handler asked for another try")),
        (Retry(), 1, Again(0.4, "Retry: the handler asked for another try")),
    ],
)
def test_a_handlers_end_is_judged(result: Effects | Exception, failures: int, verdict: Verdict) -> None:
    assert judge(result, failures=failures, limits=LIMITS) == verdict


def test_returning_nothing_is_done_without_effects() -> None:
    verdict = judge(None, failures=0, limits=LIMITS)
    assert isinstance(verdict, Done)
    assert not verdict.effects.writes


def test_asking_for_another_try_for_ever_ends_at_the_limit() -> None:
    verdict = judge(Retry(1), failures=2, limits=LIMITS)
    assert isinstance(verdict, Bury)
    assert verdict.code == "attempts_used_up"


@given(st.integers(1, 10_000), st.floats(0.001, 10))
def test_backing_off_doubles_up_to_ten_seconds(failures: int, first: float) -> None:
    assert backoff(failures, first) == min(first * 2.0 ** min(failures - 1, 30), MAX_BACKOFF_S)
    assert backoff(failures, first) <= backoff(failures + 1, first) <= MAX_BACKOFF_S


@pytest.mark.parametrize(("deaths", "buried"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_killer_is_buried_at_its_limit(deaths: int, buried: bool) -> None:
    verdict = must_bury(deaths, LIMITS)
    assert (verdict is not None) == buried
    assert verdict is None or verdict.code == "killed_its_node"


@pytest.mark.parametrize(("deaths", "alone"), [(0, False), (1, False), (2, True), (3, True)])
def test_suspects_run_alone_from_the_second_death_on(deaths: int, alone: bool) -> None:
    assert must_run_alone(deaths, Limits(deaths=3)) == alone


def test_a_description_is_bounded() -> None:
    assert len(describe(ValueError("x" * 10_000))) == 500


def test_an_exception_that_cannot_say_what_it_is_has_a_description() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert "Mute" in describe(Mute())


@pytest.mark.parametrize("result", [OSError("/\udcff"), Rejected("\udcff"), BadEffects("\udcff")])
def test_a_cause_can_be_written_whatever_an_exception_says(result: Exception) -> None:
    verdict = judge(result, failures=9, limits=LIMITS)
    text = verdict.reason if isinstance(verdict, Refuse) else getattr(verdict, "cause", "")
    assert text.encode()


def test_a_reason_to_reject_is_bounded() -> None:
    verdict = judge(Rejected("x" * 100_000), failures=0, limits=LIMITS)
    assert isinstance(verdict, Refuse)
    assert len(verdict.reason) <= 500
