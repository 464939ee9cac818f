"""Many users who chat for a while, and an account of everything they said: what arrived, how soon, what did not."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from bridge.chat.client import ChatClient, ChatError, Closed, Joined, Message, Reconnecting, Resumed
from bridge.errors import BridgeError
from bridge.guests import TokenFor

ARRIVING: Final = 50  # users who connect at the same time
UNDER_WAY: Final = 1000  # messages that are not answered yet; more wait
SAMPLES: Final = 100_000  # times that are kept; of more, a random choice


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    urls: tuple[str, ...]
    rooms: tuple[str, ...]  # client number i is in room number i modulo their count
    clients: int
    rate: float  # messages a second
    seconds: float
    prefix: str = "load"
    settle_s: float = 15.0  # for what was said last to arrive everywhere


@dataclass(slots=True)
class Report:
    """What came of it, as ``--json`` prints it. Times are ms; those of deliveries count from when the say was due."""

    urls: list[str]
    rooms: list[str]
    clients: int
    rate: float
    seconds: float
    joined: int = 0
    said: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # code → says
    turned_away: dict[str, int] = field(default_factory=dict)  # why → users who could not join, or did not stay
    deliveries: int = 0
    deliveries_per_s: float = 0.0
    missing: int = 0  # deliveries that did not come
    duplicates: int = 0
    gaps: int = 0  # times that a room's offsets jumped, or its history could not be recovered
    reconnects: int = 0
    say_ms: dict[str, float] = field(default_factory=dict)
    delivery_ms: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        lost = self.missing or self.duplicates or self.gaps or self.turned_away
        return self.said > 0 and not lost


class Times:
    """Percentiles of however many times, of a bounded sample."""

    def __init__(self, rng: random.Random) -> None:
        self._kept: list[float] = []
        self._count, self._most, self._rng = 0, 0.0, rng

    def add(self, seconds: float) -> None:
        self._count += 1
        self._most = max(self._most, seconds)
        if len(self._kept) < SAMPLES:
            self._kept.append(seconds)
        elif (place := self._rng.randrange(self._count)) < SAMPLES:
            self._kept[place] = seconds

    def summary(self) -> dict[str, float]:
        if not self._kept:
            return {}
        ordered = sorted(self._kept)
        percentiles = {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}
        return {name: round(s * 1000, 2) for name, s in (percentiles | {"max": self._most}).items()}


class Guest:
    """One user: counts what it is shown in its room."""

    def __init__(self, client: ChatClient, joined: Joined, load: Load) -> None:
        self.client, self.room, self._load = client, joined.room, load
        self.mine = 0  # messages of this run that came
        self._offset = joined.position.offset  # of the last event of the room
        self._afresh = False  # the room is being shown anew, from somewhere

    async def listen(self) -> None:
        """Until the session ends."""
        try:
            async for event in self.client:
                match event:
                    case Resumed(recovered=False):
                        self._load.report.gaps += 1
                        self._afresh = True
                        self._offset = min(self._offset, event.joined.position.offset)  # less: another life of the room
                    case Reconnecting():
                        self._load.report.reconnects += 1
                    case _ if (offset := getattr(event, "offset", None)) is not None:
                        self._count(offset, event)
        except Closed as closed:
            self._load.away[_why(closed)] += 1

    def _count(self, offset: int, event: object) -> None:
        report = self._load.report
        if offset <= self._offset:
            report.duplicates += not self._afresh
            return
        report.gaps += offset > self._offset + 1 and not self._afresh
        self._offset, self._afresh = offset, False
        if isinstance(event, Message) and event.text is not None and event.text.startswith(self._load.tag):
            self.mine += 1
            self._load.delivered(time.perf_counter() - float(event.text.rsplit(" ", 1)[1]))


class Load:
    """Carries a plan out once."""

    def __init__(self, plan: Plan, token_for: TokenFor, *, rng: random.Random | None = None) -> None:
        self.plan, self._token_for, self._rng = plan, token_for, rng or random.Random()
        self.report = Report(list(plan.urls), list(plan.rooms), plan.clients, plan.rate, plan.seconds)
        self.tag = f"load {secrets.token_hex(4)} "
        self.away: Counter[str] = Counter()
        self._deliveries, self._answers = Times(self._rng), Times(self._rng)
        self._guests: list[Guest] = []
        self._members: Counter[str] = Counter()  # room → guests
        self._said: Counter[str] = Counter()  # room → messages
        self._refused: Counter[str] = Counter()
        self._owed = 0  # deliveries of what was answered that have not come yet
        self._all_said, self._all_there = False, asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    async def run(self) -> Report:
        """Let everybody in, have them talk, wait for what is under way, and sum up."""
        async with self._stack:
            gate = asyncio.Semaphore(ARRIVING)
            await asyncio.gather(*(self._arrive(number, gate) for number in range(self.plan.clients)))
            async with asyncio.TaskGroup() as listening:
                tasks = [listening.create_task(guest.listen()) for guest in self._guests]
                began = time.perf_counter()
                if self._guests:
                    await self._talk()
                    await self._settle()
                self.report.deliveries_per_s = round(self.report.deliveries / (time.perf_counter() - began), 1)
                for task in tasks:
                    task.cancel()
        return self._sum_up()

    async def _arrive(self, number: int, gate: asyncio.Semaphore) -> None:
        room = self.plan.rooms[number % len(self.plan.rooms)]
        user = f"{self.plan.prefix}-{number}"
        client = ChatClient(self.plan.urls, partial(self._token_for, user), name="chatbridge load", rng=self._rng)
        async with gate:
            try:
                await self._stack.enter_async_context(client)
                joined = await client.join(room)
            except BridgeError as error:
                self.away[_why(error)] += 1
                return
        self._guests.append(Guest(client, joined, self))
        self._members[room] += 1
        self.report.joined += 1

    async def _talk(self) -> None:
        """Messages are due at a steady pace, whatever becomes of those before."""
        plan, free = self.plan, asyncio.Semaphore(UNDER_WAY)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as saying:
            for number in range(max(1, round(plan.rate * plan.seconds))):
                due = began + number / plan.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await free.acquire()
                speaker = self._guests[number % len(self._guests)]
                saying.create_task(self._say(speaker, due)).add_done_callback(lambda _: free.release())

    async def _say(self, speaker: Guest, due: float) -> None:
        try:
            await speaker.client.say(speaker.room, f"{self.tag}{due}")
        except BridgeError as error:
            self._refused[_why(error)] += 1
            return
        self._answers.add(time.perf_counter() - due)
        self._said[speaker.room] += 1
        self.report.said += 1
        self._owe(self._members[speaker.room])

    def delivered(self, after_s: float) -> None:
        self.report.deliveries += 1
        self._deliveries.add(after_s)
        self._owe(-1)

    def _owe(self, deliveries: int) -> None:
        self._owed += deliveries
        if self._all_said and self._owed <= 0:
            self._all_there.set()

    async def _settle(self) -> None:
        self._all_said = True
        self._owe(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.settle_s):
                await self._all_there.wait()

    def _missing(self) -> int:
        return sum(max(0, self._said[guest.room] - guest.mine) for guest in self._guests)

    def _sum_up(self) -> Report:
        report = self.report
        report.missing = self._missing()
        report.refused, report.turned_away = dict(self._refused), dict(self.away)
        report.say_ms, report.delivery_ms = self._answers.summary(), self._deliveries.summary()
        return report


def _why(error: BridgeError) -> str:
    return str(error.code) if isinstance(error, ChatError | Closed) else type(error).__name__


@contextlib.asynccontextmanager
async def watched(load: Load) -> AsyncIterator[None]:
    """Show how far it is, on standard error, twice a second."""
    from rich.console import Console
    from rich.live import Live

    async def show(live: Live) -> None:
        while True:
            live.update(_line(load))
            await asyncio.sleep(0.5)

    with Live(_line(load), console=Console(stderr=True), transient=True) as live:
        showing = asyncio.create_task(show(live))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait((showing,))


def allow_sockets(count: int) -> None:
    """Raise this process's limit of open files, as far as it may."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _line(load: Load) -> str:
    report, due = load.report, round(load.plan.rate * load.plan.seconds)
    talk = f"{report.joined} of {load.plan.clients} in · {report.said} of {due} said · {report.deliveries} delivered"
    return f"{talk} · {report.reconnects} reconnects · {report.gaps} gaps · {report.duplicates} duplicates"


def as_rows(report: Report) -> list[list[str]]:
    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"

    return [
        ["joined", f"{report.joined} of {report.clients}, in {len(report.rooms)} rooms"],
        ["said", f"{report.said}, at {report.rate:g} a second; refused: {listed(report.refused)}"],
        ["deliveries", f"{report.deliveries}, {report.deliveries_per_s:g} a second"],
        ["missing", f"{report.missing}; duplicates {report.duplicates}, gaps {report.gaps}"],
        ["reconnects", f"{report.reconnects}; turned away: {listed(report.turned_away)}"],
        ["say → answer, ms", listed(report.say_ms)],
        ["say → shown, ms", listed(report.delivery_ms)],
    ]
