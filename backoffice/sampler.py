"""The whole at a glance, once a second: series for charts, and what alarms judge by. Bounded, in memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bridge.client import Bridge
from bridge.inspector import Look, NodeInfo
from bridge.record import Outcome

STEP_S = 1.0
FINE = 900  # samples a second apart
COARSE_S, COARSE = 10, 2160  # and those that are kept for six hours
MAX_WAITS = 10_000  # of one step
STALE_S = 5.0  # a sample that is older says nothing of now: Redis has not answered since


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at everything, as far as primaries answer; None: the one that knows the nodes did not."""

    at: float  # seconds since the epoch, this machine's clock
    rate: float | None  # commands handled per second
    lag: int  # accepted, and read by nobody
    pending: int  # read, and not ended
    oldest_s: float | None  # age of the oldest that waits or is handled
    dead: int  # dead letters that were not sent again
    dead_most: int  # dead letters of one shard, with those that were sent again: they take room as well
    clients: int | None
    wait_p50_s: float | None  # from acceptance to the end, of what ended in this second; None: nothing did
    wait_p99_s: float | None
    live: int | None  # nodes
    gone: tuple[str, ...]  # nodes that did not say goodbye, when that was last known
    unheld: int  # shards that nobody is known to hold
    unknown: int = 0  # of these, whose primary did not answer; they are in no other figure


@dataclass(slots=True)
class Sampler:
    """``step`` has to be called every ``STEP_S``; ``ended`` with whatever has ended."""

    bridge: Bridge
    seen: Look = field(default_factory=lambda: Look([], {}))
    nodes: list[NodeInfo] = field(default_factory=list)  # as they were last known
    answered_at: float = field(default_factory=time.time)  # when Redis did so last, or this began
    fine: deque[Sample] = field(default_factory=lambda: deque(maxlen=FINE))
    coarse: deque[Sample] = field(default_factory=lambda: deque(maxlen=COARSE))
    _waits: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_WAITS))

    def ended(self, outcomes: Iterable[Outcome]) -> None:
        """Note how long these had taken."""
        for outcome in outcomes:
            steps = outcome.timeline
            if steps:
                accepted = next((step.at for step in steps if step.state == "accepted"), steps[0].at)
                self._waits.append(max(0, steps[-1].at - accepted) / 1000)

    async def step(self) -> Sample:
        """Look once. Raises Unreachable where no primary answers."""
        self.seen = await self.bridge.inspector.look()
        if self.seen.nodes is not None:
            self.nodes = self.seen.nodes
        self.answered_at = time.time()
        sample = self._sample(self.answered_at)
        self.fine.append(sample)
        if not self.coarse or sample.at - self.coarse[-1].at >= COARSE_S:
            self.coarse.append(sample)
        return sample

    @property
    def fresh(self) -> Sample | None:
        """The newest sample, unless it is stale."""
        return self.fine[-1] if self.fine and time.time() - self.answered_at <= STALE_S else None

    def _sample(self, now: float) -> Sample:
        shards, waits = self.seen.shards.values(), sorted(self._waits)
        self._waits.clear()
        known, unknown = self.seen.nodes is not None, self.bridge.shards - len(shards)
        live = [node for node in self.nodes if node.state != "dead"]
        ages = [shard.oldest_age_s for shard in shards if shard.oldest_age_s is not None]
        return Sample(
            at=now,
            rate=sum(shard.handled_per_s for shard in shards) if known else None,
            lag=sum(shard.lag for shard in shards),
            pending=sum(shard.pending for shard in shards),
            oldest_s=max(ages, default=None),
            dead=sum(shard.dead for shard in shards),
            dead_most=max((shard.letters for shard in shards), default=0),
            clients=sum(node.sessions for node in live) if known else None,
            wait_p50_s=_at(waits, 0.5),
            wait_p99_s=_at(waits, 0.99),
            live=len(live) if known else None,
            gone=tuple(node.name for node in self.nodes if node.state == "dead"),
            unheld=unknown + sum(shard.holder is None for shard in shards),
            unknown=unknown,
        )


def _at(values: list[float], share: float) -> float | None:
    return values[min(int(len(values) * share), len(values) - 1)] if values else None
