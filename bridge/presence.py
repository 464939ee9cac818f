"""Who vanished: a killed process drops the subscription of its own channel, and the server can tell in milliseconds.

A node looks a few times a second: one call for the channels of all nodes, on the primary that has them. What it sees
counts only on one and the same connection (a server that restarted, or another one, has seen nobody yet), and only
while its own subscription stands there. A node counts as vanished where all of this holds:

- this node saw it subscribed before, on this connection and since its own subscription was last confirmed. So after
  a restart, a fail-over or a cut of everybody's subscriptions nobody is missed because he comes back a little later;
- three looks in a row, a tenth of a second apart, find it without subscription;
- it has not sent a heartbeat between them. Who lives and has lost only its subscription sends them quickly.

Who vanished stays so until there is a sign of life: a subscription, or another heartbeat.

A paused process keeps its subscription; a machine without power drops nothing: for these there is the lease. A lease of
one that vanished is taken only if it is still the one seen, and was not renewed since (`acquire.lua`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.connection import Redis
from bridge.errors import BridgeError, Unreachable
from bridge.keys import Keys
from bridge.link import Link
from bridge.subscriptions import Subscriptions
from bridge.telemetry import StepFailed, Telemetry, Vanished
from bridge.verdict import describe

LOOK_S = 0.15
AGAIN_S = 0.1  # between the looks at somebody who is missed
LOOKS = 3
SPEAK_S = 0.05  # between heartbeats of a node without its subscription
_NO_ANSWER_S = 1.0  # the server is away, or does not let us look
_EARLY_S = 0.01  # timers may be early by less


@dataclass(slots=True)
class _Absence:
    since: float  # loop time of the first look that missed it, after its answer
    beat: float | None  # its heartbeat then
    looks: int = 0


class Sightings:
    """What the looks at one server add up to. Pure: no clock, no server."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._absent: dict[str, _Absence] = {}
        self._vanished: dict[str, _Absence] = {}

    def forget(self) -> None:
        """What was seen says nothing about what comes. Who vanished did so all the same."""
        self._seen.clear()
        self._absent.clear()

    def see(self, now: float, subscribed: Mapping[str, bool], beats: Mapping[str, float | None]) -> None:
        """One look at the nodes that there are."""
        self._seen &= subscribed.keys()
        for absences in (self._absent, self._vanished):
            for name in [name for name, absence in absences.items() if absence.beat != beats.get(name)]:
                del absences[name]
        for name, up in subscribed.items():
            if up:
                self._seen.add(name)
                self._absent.pop(name, None)
                self._vanished.pop(name, None)
            elif name in self._seen:
                absence = self._absent.setdefault(name, _Absence(now, beats[name]))
                absence.looks += 1
                if absence.looks >= LOOKS and now - absence.since >= (LOOKS - 1) * AGAIN_S - _EARLY_S:
                    self._vanished[name] = absence

    @property
    def missed(self) -> bool:
        """Whether somebody is who has not vanished yet."""
        return not self._absent.keys() <= self._vanished.keys()

    @property
    def vanished(self) -> dict[str, float]:
        """Nodes that are gone, and since when they have given no sign."""
        return {name: absence.since for name, absence in self._vanished.items()}


class Presence:
    """See the module. ``vanished``: nodes, and the loop time since which they are silent."""

    def __init__(
        self,
        node: str,
        *,
        redis: Redis,
        keys: Keys,
        subscriptions: Subscriptions,
        beat: Callable[[], Awaitable[object]],
        changed: Callable[[], None],
        telemetry: Telemetry,
    ) -> None:
        self._node, self._redis, self._keys = node, redis, keys
        self._beat, self._changed, self._telemetry = beat, changed, telemetry
        self.vanished: Mapping[str, float] = {}
        self._others: tuple[str, ...] = ()
        self._sightings = Sightings()
        self._link: Link | None = None  # what was seen was seen there
        self._blind = False  # said so already
        self._stirred = asyncio.Event()
        self._era = 0  # grows with every loss and renewal of our subscription: looks do not count across them
        self._subscriptions = subscriptions

    def watch(self, nodes: Collection[str]) -> None:
        """These are the nodes that there are."""
        others = tuple(sorted(set(nodes) - {self._node}))
        if others != self._others:
            self._others = others
            self._stirred.set()  # who is killed before he was ever seen is missed by his lease only

    def begin_anew(self) -> None:
        """Our own subscription dropped or was confirmed again: whom we saw before, we have to see again."""
        self._era += 1
        self._sightings.forget()
        self._stirred.set()

    async def run(self) -> None:
        """Look until cancelled."""
        unlisten = self._subscriptions.on_lost(self.begin_anew)
        try:
            while True:
                self._stirred.clear()
                pause_s = await self._careful_step()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._stirred.wait()
        finally:
            unlisten()

    async def _careful_step(self) -> float:
        try:
            return await self.step()
        except Exception as error:
            self._telemetry.emit(StepFailed("presence", describe(error)))
            return _NO_ANSWER_S

    async def step(self) -> float:
        """One look; seconds until the next."""
        others, era = self._others, self._era
        link = self._redis.link_to(self._keys.live)
        if link is None or not others:
            self._sightings.forget()
            if not others:
                self._see({}, {})
            return LOOK_S
        try:
            subscribed, beats = await self._look(link, (self._node, *others))
        except BridgeError as error:
            self._sightings.forget()
            if not (self._blind or isinstance(error, Unreachable)):  # an outage is told by others
                self._blind = True
                self._telemetry.emit(StepFailed("presence", f"who is there cannot be seen: {describe(error)}"))
            return _NO_ANSWER_S
        self._blind = False
        if era != self._era:
            return AGAIN_S
        if link is not self._link:
            self._link = link
            self._sightings.forget()
        if not subscribed.pop(self._node):
            self._sightings.forget()
            with contextlib.suppress(BridgeError):
                await self._beat()
            return SPEAK_S
        self._see(subscribed, beats)
        return AGAIN_S if self._sightings.missed else LOOK_S

    async def _look(self, link: Link, names: Collection[str]) -> tuple[dict[str, bool], dict[str, float | None]]:
        """Who is subscribed, and everybody's last heartbeat."""
        channels = [self._keys.node_channel(name) for name in names]
        counts: list[Any]
        beats: list[float | None]
        counts, beats = await asyncio.gather(
            link.send("PUBSUB", "SHARDNUMSUB", *channels), link.send("ZMSCORE", self._keys.live, *names)
        )
        return (
            {name: count > 0 for name, count in zip(names, counts[1::2], strict=True)},
            dict(zip(names, beats, strict=True)),
        )

    def _see(self, subscribed: Mapping[str, bool], beats: Mapping[str, float | None]) -> None:
        self._sightings.see(asyncio.get_running_loop().time(), subscribed, beats)
        before, self.vanished = self.vanished, self._sightings.vanished
        vanished = self.vanished
        for name in vanished.keys() - before.keys():
            self._telemetry.emit(Vanished(self._node, name))
        if vanished.keys() != before.keys():
            self._changed()
