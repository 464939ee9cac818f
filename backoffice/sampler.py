"""The whole at a glance, once a second: series for charts, and what alarms judge by. Bounded, in memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bridge.client import Bridge
from bridge.inspector import NodeInfo, ShardInfo
from bridge.record import Outcome

STEP_S = 1.0
FINE = 900  # samples a second apart
COARSE_S, COARSE = 10, 2160  # and those that are kept for six hours
MAX_WAITS = 10_000  # of one step


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at everything."""

    at: float  # seconds since the epoch, this machine's clock
    rate: float  # commands handled per second
    lag: int  # accepted, and read by nobody
    pending: int  # read, and not ended
    oldest_s: float | None  # age of the oldest that waits or is handled
    dead: int  # dead letters that were not sent again
    dead_most: int  # of one shard
    clients: int
    wait_p50_s: float | None  # from acceptance to the end, of what ended in this second; None: nothing did
    wait_p99_s: float | None
    live: int  # nodes
    gone: tuple[str, ...]  # nodes that did not say goodbye
    unheld: int  # shards


@dataclass(slots=True)
class Sampler:
    """``step`` has to be called every ``STEP_S``; ``ended`` with whatever has ended."""

    bridge: Bridge
    nodes: list[NodeInfo] = field(default_factory=list)
    shards: list[ShardInfo] = field(default_factory=list)
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
        """Look once. Raises Unreachable."""
        self.nodes, self.shards = await asyncio.gather(self.bridge.nodes(), self.bridge.shard_infos())
        sample = self._sample(time.time())
        self.fine.append(sample)
        if not self.coarse or sample.at - self.coarse[-1].at >= COARSE_S:
            self.coarse.append(sample)
        return sample

    def _sample(self, now: float) -> Sample:
        shards, waits = self.shards, sorted(self._waits)
        self._waits.clear()
        live = [node for node in self.nodes if node.state != "dead"]
        ages = [shard.oldest_age_s for shard in shards if shard.oldest_age_s is not None]
        return Sample(
            at=now,
            rate=sum(shard.handled_per_s for shard in shards),
            lag=sum(shard.lag for shard in shards),
            pending=sum(shard.pending for shard in shards),
            oldest_s=max(ages, default=None),
            dead=sum(shard.dead for shard in shards),
            dead_most=max((shard.dead for shard in shards), default=0),
            clients=sum(node.sessions for node in live),
            wait_p50_s=_at(waits, 0.5),
            wait_p99_s=_at(waits, 0.99),
            live=len(live),
            gone=tuple(node.name for node in self.nodes if node.state == "dead"),
            unheld=sum(shard.holder is None for shard in shards),
        )


def _at(values: list[float], share: float) -> float | None:
    return values[min(int(len(values) * share), len(values) - 1)] if values else None
