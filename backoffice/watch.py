"""The one loop that looks at everything each second: samples, alarms, and what listeners hear of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from backoffice.alarms import Alarm, Alarms, Limits
from backoffice.live import Live
from backoffice.sampler import Sampler
from bridge.client import Bridge
from bridge.errors import BridgeError
from bridge.inspector import Look, NodeInfo
from bridge.record import Outcome

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Views:
    """How the API's lists tell things."""

    command: Callable[[Outcome], Any]
    node: Callable[[NodeInfo], Any]
    shards: Callable[[Look, int], Sequence[Any]]  # of so many
    alarm: Callable[[Alarm], Any]
    gone: Callable[[Any], Any]  # a node, as it was told last
    cleared: Callable[[Any], Any]  # an alarm, likewise


class Watch:
    """``step`` has to be called every second."""

    def __init__(self, bridge: Bridge, views: Views) -> None:
        settings = bridge.settings
        self._views, self._shards = views, bridge.shards
        self.sampler, self.live = Sampler(bridge), Live()
        self.alarms = Alarms(Limits(settings.max_in_flight, settings.dead_length, bridge.shards))

    async def step(self) -> None:
        """Look, judge, tell. Raises Unreachable where no primary answers, which is told as well."""
        try:
            sample = await self.sampler.step()
        except BridgeError:
            self._tell_alarms(self.alarms.silent(self.sampler.answered_at, time.time()), [])
            raise
        raised, cleared = self.alarms.look(self.sampler.fine)
        self.live.tell("sample", sample)
        views = self._views
        tell = self.live.tell_things
        tell("nodes", {node.name: views.node(node) for node in self.sampler.nodes}, views.gone)
        tell("shards", {str(each.shard): each for each in views.shards(self.sampler.seen, self._shards)}, asdict)
        self._tell_alarms(raised, cleared)

    def _tell_alarms(self, raised: list[Alarm], cleared: list[Alarm]) -> None:
        for alarm in raised:
            _say("alarm", alarm)
        for alarm in cleared:
            _say("alarm cleared", alarm)
        now = {alarm.code: self._views.alarm(alarm) for alarm in self.alarms.now}
        self.live.tell_things("alarms", now, self._views.cleared)

    def ended(self, outcomes: list[Outcome]) -> None:
        """Commands that have ended."""
        self.sampler.ended(outcomes)
        for outcome in outcomes:
            self.live.tell("commands", self._views.command(outcome))


def _say(what: str, alarm: Alarm) -> None:
    say = log.error if alarm.severity == "critical" and what == "alarm" else log.warning
    say(what, code=alarm.code, message=alarm.message)
