"""One node of the fleet: heartbeats, membership, and the order in which it comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import inf
from typing import Any

import orjson

from bridge.assignment import Assignment
from bridge.clock import ServerClock, every
from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.envelope import NODE_NAME, StateReader
from bridge.errors import BridgeError, Misconfigured, NameTaken
from bridge.findings import REFUSE, judge_skew
from bridge.handling import Handling
from bridge.keys import Keys
from bridge.lanes import Lanes
from bridge.presence import Presence
from bridge.registry import Registry
from bridge.scripts import Script, script
from bridge.shard_stream import Lease, ShardStream
from bridge.subscriptions import Subscriptions
from bridge.telemetry import Joined, MembersChanged, StepFailed, Telemetry
from bridge.verdict import describe
from bridge.worker import Worker


def _version() -> str:
    try:
        return version("chat-backoffice-bridge")
    except PackageNotFoundError:
        return "unknown"


SCRIPTS: tuple[Script, ...] = tuple(map(script, ("heartbeat", "drain", "leave")))
FORGET_DEAD_S = 3600.0  # a dead node is named in the lists for so long
_PAST_S = 0.002  # so that a look for something that runs out comes after it
VERSION = _version()
_LEAVING = "leaving"  # on the draining list by itself, not by an operator

Stats = Callable[[], Mapping[str, int]]


class Node:
    """See the module. ``run`` is its whole life."""

    def __init__(
        self,
        name: str,
        *,
        url: str,
        redis: Redis,
        keys: Keys,
        streams: Sequence[ShardStream],
        subscriptions: Subscriptions,
        registry: Registry,
        reader: StateReader,
        settings: BridgeSettings,
        telemetry: Telemetry,
        stats: Stats,
        draining: asyncio.Event,
    ) -> None:
        if not NODE_NAME.fullmatch(name):
            raise Misconfigured(f"node name {name!r}: use 1-63 letters, digits, '.' and '-', the first no sign")
        self.name, self.boot = name, secrets.token_hex(4)
        self._url, self._redis, self._keys = url, redis, keys
        self._subscriptions, self._registry = subscriptions, registry
        self._settings, self._telemetry = settings, telemetry
        self._stats, self._drain_asked = stats, draining
        self._lanes = Lanes(settings.max_in_flight)
        self._handling = Handling(name, registry, reader, ServerClock(), settings, telemetry)
        self._assignment = Assignment(
            name,
            f"{name}/{self.boot}",
            streams,
            keys=keys,
            subscriptions=subscriptions,
            make_worker=self._worker,
            released=self._tell_others,
            telemetry=telemetry,
        )
        self._presence = Presence(
            name,
            redis=redis,
            keys=keys,
            subscriptions=subscriptions,
            beat=self._heartbeat,
            changed=self._look_soon,
            telemetry=telemetry,
        )
        self._beat_s = settings.lease_seconds / 4  # between heartbeats, and between renewals
        self._members: tuple[str, ...] = ()
        self._joined_at = 0  # ms, the server's clock
        self._beat_at = 0.0  # loop time of the last answered heartbeat
        self._trust_others_until = 0.0
        self._next_death_s = inf  # until the quietest of the others counts as dead, if it stays quiet
        self._stirred = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None
        self._ousted: NameTaken | None = None
        self._assigning: asyncio.Task[float] | None = None
        self._news = False  # something that the others have not been told of
        self._rates: dict[int, tuple[int, float]] = {}  # shard → handled when last counted, commands per second

    async def run(self, stopping: asyncio.Event, *, drain_s: float) -> None:
        """Join, handle until ``stopping``, then finish what was started (for ``drain_s`` at most), hand over and leave.

        Raises NameTaken where a live node has the name.
        """
        await self._join()
        async with asyncio.TaskGroup() as background:
            renewal = background.create_task(
                every(self._beat_s / 2, self._renew_overdue, name="renew", telemetry=self._telemetry)
            )
            beating = background.create_task(self._beat_until(stopping))
            hearing = background.create_task(self._hear())
            looking = background.create_task(self._presence.run())
            try:
                await stopping.wait()
                await beating
                await self._last_look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(drain_s):
                        await self._drain()
            finally:
                if self._assigning is not None:
                    self._assigning.cancel()
                    await self._last_look()
                await self._assignment.abandon()
                self._handling.closing = True
                await self._lanes.close()
                # Renewal outlives the drain: a lapsed lease would let another node redo what we are finishing.
                for task in (renewal, hearing, looking, beating):
                    task.cancel()
        if self._ousted is not None:
            raise self._ousted
        with contextlib.suppress(BridgeError):
            await self._leave()

    async def step(self) -> float:
        """One heartbeat, and what follows from who else is there; seconds until another one is worth it.

        Leases are renewed with it, so that a killed node is missed in the list just when its leases run out.
        """
        members, _ = await asyncio.gather(self._heartbeat(), self._assignment.renew(self._beat_s / 2))
        if members != self._members:
            first, self._members = not self._members, members
            self._telemetry.emit(MembersChanged(self.name, members))
            if first:
                self._tell_others()
        return min(self._beat_s, self._next_death_s, await self._assign(members)) + _PAST_S

    async def _assign(self, members: Sequence[str]) -> float:
        """One look at the shards. Where a primary keeps it waiting, it goes on beside the next heartbeats."""
        if self._assigning is None:
            self._assigning = asyncio.get_running_loop().create_task(
                self._assignment.step(members, self._presence.vanished), name="assign"
            )
        done, _ = await asyncio.wait((self._assigning,), timeout=self._beat_s)
        if not done:
            return inf
        look, self._assigning = self._assigning, None
        return look.result()

    async def _last_look(self) -> None:
        """Until nothing more is acquired."""
        if self._assigning is not None:
            await asyncio.gather(self._assigning, return_exceptions=True)

    async def _renew_overdue(self) -> None:
        await self._assignment.renew_overdue(self._beat_s)

    async def _join(self) -> None:
        """A name whose former owner was killed becomes free once that counts as dead."""
        deadline = asyncio.get_running_loop().time() + self._settings.lease_seconds + 1
        seconds, micros = await self._redis.call("TIME")
        self._joined_at = int(seconds) * 1000 + int(micros) // 1000
        while True:
            try:
                await self._heartbeat()
                break
            except NameTaken:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.1)
        skew = judge_skew(time.time() - self._handling.clock.now())
        if skew is not None and skew.severity == REFUSE:  # clients' tokens are checked by it
            raise Misconfigured(str(skew))
        k = self._keys
        if await self._redis.call("HGET", k.draining, self.name) == _LEAVING.encode():
            await self._redis.call("HDEL", k.draining, self.name)
        self._telemetry.emit(Joined(self.name, self.boot))

    async def _heartbeat(self) -> tuple[str, ...]:
        """Say that we live; who takes part. Raises NameTaken, Unreachable."""
        k, lease = self._keys, self._settings.lease_seconds
        answer = await self._redis.run(
            script("heartbeat"),
            (k.nodes_spare, k.live, k.info, k.draining),
            (
                self.name,
                self.boot,
                orjson.dumps(self._info(), option=orjson.OPT_NON_STR_KEYS),
                int(lease * 1000),
                int(FORGET_DEAD_S * 1000),
            ),
        )
        if not answer[0]:
            raise NameTaken(
                f"a live node is called {self.name!r} already (boot {answer[1].decode()}); give this one another name"
            )
        _, now, beats, draining = answer
        self._handling.clock.heard(now / 1000)
        self._obey(draining)
        return self._judge(now, beats, set(draining))

    def _judge(self, now: int, beats: list[bytes], draining: set[bytes]) -> tuple[str, ...]:
        """Who takes part. After a silence of ours or of the server, the others may have been as silent."""
        lease = self._settings.lease_seconds
        loop_time = asyncio.get_running_loop().time()
        if self._beat_at and loop_time - self._beat_at > lease / 2:
            self._trust_others_until = loop_time + lease
        self._beat_at = loop_time
        trusted = set(self._members) if loop_time < self._trust_others_until else set()
        ages = {name.decode(): (now - float(beat)) / 1000 for name, beat in zip(beats[::2], beats[1::2], strict=True)}
        self._next_death_s = min((lease - age for age in ages.values() if age < lease), default=inf)
        live = {name for name, age in ages.items() if age < lease or name in trusted}
        self._presence.watch(live)
        return tuple(sorted(live - {name.decode() for name in draining} - self._presence.vanished.keys()))

    def _look_soon(self) -> None:
        self._stirred.set()

    def _obey(self, draining: list[bytes]) -> None:
        if self.name.encode() in draining:
            self._drain_asked.set()
        else:
            self._drain_asked.clear()

    def _info(self) -> dict[str, Any]:
        stats = self._stats()
        return {
            "version": VERSION,
            "url": self._url,
            "joined_at": self._joined_at,
            "types": self._registry.handled(),
            "shards": sorted(worker.shard for worker in self._assignment.workers),
            "sessions": stats.get("sessions", 0),
            "rooms": stats.get("rooms", 0),
            "rates": self._count_rates(),
        }

    def _count_rates(self) -> dict[int, float]:
        """Commands per second by shard, averaged over about five seconds."""
        elapsed = max(0.001, asyncio.get_running_loop().time() - self._beat_at) if self._beat_at else 1.0
        weight = min(1.0, elapsed / 5)
        counted = {}
        for worker in self._assignment.workers:
            before, rate = self._rates.get(worker.shard, (0, 0.0))
            handled = max(0, worker.handled - before)
            counted[worker.shard] = (worker.handled, rate + weight * (handled / elapsed - rate))
        self._rates = counted
        return {shard: round(rate, 2) for shard, (_, rate) in counted.items() if rate >= 0.01}

    async def _beat_until(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                self._stirred.clear()
                again_s = self._beat_s
                try:
                    again_s = await self.step()
                except NameTaken as error:  # we were silent for so long that a successor took our name
                    self._ousted = error
                    stopping.set()
                    return
                except Exception as error:
                    self._telemetry.emit(StepFailed("heartbeat", describe(error)))
                stirred = asyncio.create_task(self._stirred.wait())
                await asyncio.wait((stop, stirred), timeout=again_s, return_when=asyncio.FIRST_COMPLETED)
                stirred.cancel()
        finally:
            stop.cancel()

    async def _hear(self) -> None:
        """Others tell on our channel when they come, go or give shards up."""
        subscription = await self._subscriptions.subscribe(
            self._keys.node_channel(self.name), lambda _: self._look_soon(), on_gap=self._heard_again
        )
        try:
            await asyncio.Event().wait()
        finally:
            self._subscriptions.unsubscribe(subscription)

    def _heard_again(self) -> None:
        self._presence.begin_anew()
        self._look_soon()

    async def _drain(self) -> None:
        """Others may take over from now on; they are told again whenever a shard is free."""
        with contextlib.suppress(BridgeError):
            await self._redis.run(script("drain"), (self._keys.info, self._keys.draining), (self.name, self.boot))
        beats = asyncio.create_task(every(self._beat_s, self._heartbeat, name="heartbeat", telemetry=self._telemetry))
        self._tell_others()
        try:
            await self._assignment.drain()
        finally:
            beats.cancel()

    async def _leave(self) -> None:
        k = self._keys
        await self._redis.run(script("leave"), (k.live, k.info, k.draining), (self.name, self.boot))
        self._tell_others()
        if self._telling is not None:
            await self._telling

    def _tell_others(self) -> None:
        """Make the other nodes look at once rather than at their next heartbeat; one word for all news of a turn."""
        self._news = True
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell(), name="tell-others")

    async def _tell(self) -> None:
        while self._news:
            self._news = False
            channels = [self._keys.node_channel(name) for name in self._members if name != self.name]
            calls = [self._redis.send("SPUBLISH", channel, "look") for channel in channels]
            await asyncio.gather(*calls, return_exceptions=True)

    def _worker(self, stream: ShardStream, lease: Lease) -> Worker:
        return Worker(
            stream,
            lease,
            owner=f"{self.name}/{self.boot}",
            handling=self._handling,
            lanes=self._lanes,
            limits=self._settings.limits,
            telemetry=self._telemetry,
        )
