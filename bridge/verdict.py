"""What becomes of an entry: judgement over plain values, and how long to back off."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.effects import BadEffects, Effects
from bridge.errors import Rejected, Retry


@dataclass(frozen=True, slots=True)
class Done:
    effects: Effects


@dataclass(frozen=True, slots=True)
class Refuse:
    reason: str


@dataclass(frozen=True, slots=True)
class Again:
    after_s: float
    cause: str


@dataclass(frozen=True, slots=True)
class Bury:
    code: str
    cause: str


Verdict = Done | Refuse | Again | Bury

MAX_BACKOFF_S = 10.0
MAX_CAUSE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Limits:
    attempts: int = 5  # a handler raised or ran out of time
    deaths: int = 3  # its process died while handling; at least 2, or what merely waited would be buried
    backoff_s: float = 0.2  # after the first failure; doubles, at most 10


def judge(result: Effects | BaseException | None, *, failures: int, limits: Limits) -> Verdict:
    """What a handler's end means; ``failures`` counts earlier failed attempts of this command."""
    match result:
        case None:
            return Done(Effects())
        case Effects():
            return Done(result)
        case Rejected():
            return Refuse(_text(result) or "the handler refused")
        case BadEffects():
            return Bury("effects_failed", _text(result))
        case TimeoutError() if failures + 1 >= limits.attempts:
            return Bury("timed_out", f"{result} on attempt {failures + 1} of {limits.attempts}")
        case BaseException() if failures + 1 >= limits.attempts:
            return Bury("attempts_used_up", f"{describe(result)} on attempt {failures + 1} of {limits.attempts}")
        case Retry(after_s=after_s) if after_s is not None:
            return Again(after_s, str(result))
        case _:
            return Again(backoff(failures + 1, limits.backoff_s), describe(result))


def backoff(failures: int, first_s: float) -> float:
    """Seconds to wait after the n-th failure: doubling from ``first_s``, at most 10."""
    return min(first_s * 2.0 ** min(failures - 1, 30), MAX_BACKOFF_S)


def must_bury(deaths: int, limits: Limits) -> Bury | None:
    """A command whose handler was started ``deaths`` times and never ended is not started again at the limit."""
    if deaths < limits.deaths:
        return None
    return Bury("killed_its_node", f"started {deaths} times, it never ended: its process died, or lost the shard")


def must_run_alone(deaths: int, limits: Limits) -> bool:
    """On its last chance, so that what dies beside a killer is not blamed for it."""
    return deaths >= limits.deaths - 1


def describe(error: BaseException) -> str:
    """One line of an exception, bounded, of characters that JSON can hold."""
    return f"{type(error).__name__}: {_text(error)}"[:MAX_CAUSE_CHARS]


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a handler's own exception class may be broken
        text = "(it cannot say)"
    return text[:MAX_CAUSE_CHARS].encode(errors="backslashreplace").decode()[:MAX_CAUSE_CHARS]
