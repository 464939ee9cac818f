"""What somebody should look at now: rules over the last samples, each with what to do. They clear by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backoffice.sampler import STALE_S, Sample

CLEAR_AFTER_S = 5.0  # without its condition
OLDEST_S = 30.0
GROWING_S = 60.0
GROWN = 100  # commands more than a minute ago
STILL_S = 10.0  # nothing handled although something waits
UNHELD_S = 5.0
DEAD_FULL = 0.8  # of the room for dead letters

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What alarms measure against, from the settings."""

    in_flight: int  # commands that a node handles at once
    dead_length: int  # dead letters of a shard
    shards: int


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence with places for its facts, so that it can be said in another language."""

    text: str
    facts: Mapping[str, object]

    def __str__(self) -> str:
        return self.text.format(**self.facts)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing to look at."""

    code: str
    severity: Severity
    since: float  # seconds since the epoch
    told: Told
    remedy: str

    @property
    def message(self) -> str:
        return str(self.told)


@dataclass(frozen=True, slots=True)
class Rule:
    """``broken`` says what is wrong by the samples so far, oldest first and never empty, or None."""

    code: str
    severity: Severity
    remedy: str
    broken: Callable[[Sequence[Sample], Limits], Told | None]


def _told(text: str, **facts: object) -> Told:
    return Told(text, facts)


def _pending(samples: Sequence[Sample], limits: Limits) -> Told | None:
    now = samples[-1]
    if now.live is None or now.pending <= (most := now.live * limits.in_flight):
        return None
    return _told("{n} commands are being handled; the nodes there are do {most}", n=now.pending, most=most)


def _oldest(samples: Sequence[Sample], _limits: Limits) -> Told | None:
    oldest = samples[-1].oldest_s
    if oldest is None or oldest <= OLDEST_S:
        return None
    return _told("the oldest command has waited for {seconds} s", seconds=round(oldest))


def _growing(samples: Sequence[Sample], _limits: Limits) -> Told | None:
    now = samples[-1]
    before = [sample for sample in samples if sample.at <= now.at - GROWING_S]
    if not before or now.lag - before[-1].lag < GROWN:
        return None
    if any(sample.unknown > now.unknown for sample in (before[-1], *samples) if sample.at >= before[-1].at):
        return None  # what waits in shards whose primary was away has not come in now
    recent = [sample.lag for sample in samples if sample.at > now.at - GROWING_S]
    thirds = [recent[int(len(recent) * third / 3)] for third in range(3)]
    if thirds != sorted(thirds):
        return None
    return _told("{n} commands wait, {more} more than a minute ago", n=now.lag, more=now.lag - before[-1].lag)


def _still(samples: Sequence[Sample], _limits: Limits) -> Told | None:
    now = samples[-1]
    recent = [sample for sample in samples if sample.at > now.at - STILL_S]
    long_enough = now.at - samples[0].at >= STILL_S
    if long_enough and all(sample.lag and sample.rate == 0 for sample in recent):
        return _told("{n} commands wait and none was handled for {seconds} s", n=now.lag, seconds=round(STILL_S))
    return None


def _unheld(samples: Sequence[Sample], limits: Limits) -> Told | None:
    now = samples[-1]
    recent = [sample for sample in samples if sample.at > now.at - UNHELD_S]
    if now.at - samples[0].at >= UNHELD_S and all(sample.unheld for sample in recent):
        return _told("{n} of {all} shards have no holder", n=now.unheld, all=limits.shards)
    return None


def _away(samples: Sequence[Sample], limits: Limits) -> Told | None:
    now = samples[-1]
    recent = [sample for sample in samples if sample.at > now.at - STALE_S]
    if now.at - samples[0].at < STALE_S or not all(sample.unknown or sample.live is None for sample in recent):
        return None
    if now.unknown:
        return _told("Redis does not answer for {n} of {all} shards", n=now.unknown, all=limits.shards)
    return _told("Redis does not answer where the nodes are listed")


def _dead(samples: Sequence[Sample], _limits: Limits) -> Told | None:
    dead = samples[-1].dead
    if not dead:
        return None
    return _told("{n} dead letters", n=dead) if dead != 1 else _told("{n} dead letter", n=dead)


def _dead_full(samples: Sequence[Sample], limits: Limits) -> Told | None:
    most, room = samples[-1].dead_most, limits.dead_length
    return (
        _told("a shard has {n} dead letters, and room for {room}", n=most, room=room)
        if most >= DEAD_FULL * room
        else None
    )


def _gone(samples: Sequence[Sample], _limits: Limits) -> Told | None:
    gone = samples[-1].gone
    return _told("{nodes} did not say goodbye", nodes=", ".join(gone)) if gone else None


def _nobody(samples: Sequence[Sample], _limits: Limits) -> Told | None:
    return _told("no node is there") if samples[-1].live == 0 else None


NO_REDIS = Rule("no_redis", "critical",
                "See whether its servers run and can be reached; what they hold waits meanwhile.", _away)  # fmt: skip
SILENT = _told("Redis does not answer")
RULES = (
    NO_REDIS,
    Rule("no_nodes", "critical", "Start a chat node; what is accepted meanwhile waits.", _nobody),
    Rule("no_holder", "critical", "Look whether all nodes drain, or whether Redis refuses writes.", _unheld),
    Rule("nothing_handled", "critical", "Look at the nodes' logs and at what is pending: a handler may hang.", _still),
    Rule("oldest_age", "critical", "Look at what is pending in its shard: a handler may hang or fail.", _oldest),
    Rule("lag_growing", "warning", "More comes in than is handled: add nodes, or find who sends so much.", _growing),
    Rule("pending", "warning", "Nodes went away with work in their hands, or a handler is slow.", _pending),
    Rule("dead_letters", "warning", "See why they died; mend and requeue, or discard them.", _dead),
    Rule(
        "dead_letters_full",
        "critical",
        "Discard some, first those sent again; without room the oldest are dropped.",
        _dead_full,
    ),
    Rule("node_gone", "warning", "Its shards have moved. See why it ended; start it, or it is forgotten.", _gone),
)


class Alarms:
    """Which alarms there are now, and since when."""

    def __init__(self, limits: Limits, rules: Sequence[Rule] = RULES) -> None:
        self._limits, self._rules = limits, rules
        self._raised: dict[str, Alarm] = {}
        self._seen: dict[str, float] = {}  # code → when its condition held last

    @property
    def now(self) -> list[Alarm]:
        """Critical ones first, then the oldest."""
        return sorted(self._raised.values(), key=lambda alarm: (alarm.severity != "critical", alarm.since))

    def look(self, samples: Sequence[Sample]) -> tuple[list[Alarm], list[Alarm]]:
        """Judge by the newest samples; which alarms are new, and which have cleared."""
        at = samples[-1].at
        raised: list[Alarm] = []
        for rule in self._rules:
            told = rule.broken(samples, self._limits)
            if told is not None:
                raised += self._raise(rule, told, at, at)
        return raised, self._clear(at, self._seen)

    def silent(self, since: float, at: float) -> list[Alarm]:
        """Redis has answered nothing since: what was wrong stays as it was. Which alarms are new."""
        return self._raise(NO_REDIS, SILENT, since, at) if at - since > STALE_S else []

    def is_raised(self, code: str) -> bool:
        return code in self._raised

    def _raise(self, rule: Rule, told: Told, since: float, at: float) -> list[Alarm]:
        """What is new of it."""
        self._seen[rule.code] = at
        before = self._raised.get(rule.code)
        alarm = Alarm(rule.code, rule.severity, since if before is None else before.since, told, rule.remedy)
        self._raised[rule.code] = alarm
        return [alarm] if before is None else []

    def _clear(self, at: float, seen: Mapping[str, float]) -> list[Alarm]:
        gone = [code for code in self._raised if at - seen[code] >= CLEAR_AFTER_S]
        return [self._raised.pop(code) for code in gone]
