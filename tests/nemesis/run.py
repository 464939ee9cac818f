"""One run: an installation, its load, the faults of a schedule, and the record of it all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.errors import BridgeError
from bridge.registry import default
from bridge.rest import RestApi
from tests.faults.pace import elapsed
from tests.journeys.installation import TOKENS
from tests.nemesis import places, plugin
from tests.nemesis.checkers import recoveries
from tests.nemesis.clients import Guest
from tests.nemesis.clock import Clock
from tests.nemesis.history import Entered, History, Issued, Kept, Letter, Line
from tests.nemesis.schedule import Fault, schedule
from tests.nemesis.strikes import Strikes
from tests.nemesis.system import SETTINGS, System
from tests.nemesis.workload import Workload
from tests.waiting import answered, until

WARM_UP_S = 2.0
QUIET_S = 30.0  # in which everything accepted ends, and every client is level with its room
LEVEL_S = 25.0  # clients wait up to 20 s before they try to connect again
VICTIM_SAYS_S = 0.3  # so that there is always something to refuse
RECENT = 4000  # commands
CALM_S = 15.0  # for which a wave waits, at most, until the one before has been recovered from


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is going on."""

    rooms: int = 20
    guests: int = 200
    say_every_s: float = 5.0  # of one guest
    victims: int = 6  # users whom operators mute, ban and kick
    subjects: int = 24  # with numbered commands by the API
    own_subjects: int = 6  # by the library
    command_every_s: float = 0.6  # of one subject


SMALL = Scale(rooms=6, guests=36, say_every_s=2.0, victims=3, subjects=10, own_subjects=3, command_every_s=0.4)


class Run:
    """See the module. ``history`` is what it leaves; ``abilities`` None: whatever engine and machine can do."""

    def __init__(
        self,
        kind: str,
        engine: str,
        seed: int,
        seconds: float,
        *,
        scale: Scale | None = None,
        abilities: Collection[str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.clock = Clock()
        self.history = History(kind, engine, seed)
        self._seconds, self._scale, self._abilities, self._say = seconds, scale or Scale(), abilities, say
        self._seed = f"{seed} {kind} {engine}"
        self._guests: list[Guest] = []
        self._place: Any
        self._system: System
        self._bridge: Bridge
        self._workload: Workload

    async def run(self) -> History:
        async with contextlib.AsyncExitStack() as stack:
            self._place = await stack.enter_async_context(places.launched(self.history.place, self.history.engine))
            self._system = System(self._place, self.history, self.clock)
            stack.push_async_callback(self._system.destroy)
            await self._system.start()
            self._bridge = await stack.enter_async_context(self._connect())
            api = await stack.enter_async_context(RestApi.connect(self._system.api_url, TOKENS["admin"]))
            self._workload = Workload(api, self._bridge, self.history, self.clock, self._seed)
            able = await places.abilities(self._place) if self._abilities is None else self._abilities
            faults = schedule(self.history.seed, self._place.kind, self._seconds, able)
            for fault in faults:
                self._say(str(fault))
            await self._live_through(faults)
        return self.history

    def _connect(self) -> Any:
        own = {name.removeprefix("BRIDGE_").lower(): value for name, value in SETTINGS.items()}
        own.pop("plugins")
        own["journal"] = os.fspath(self._system.directory / "journal-of-the-library")
        return Bridge.connect(self._place.url, registry=default, **own)

    async def _live_through(self, faults: list[Fault]) -> None:
        for room in range(self._scale.rooms):
            await self._workload.ended(await self._workload.issue("room.open", f"room:c{room}", {"title": f"C{room}"}))
        guests = [asyncio.create_task(guest.run(), name=guest.user) for guest in self._make_guests()]
        load = [asyncio.create_task(each) for each in self._load()]
        try:
            await until(lambda: all(guest.place for guest in self._guests), QUIET_S, what="all guests are in")
            await self.clock.pause(WARM_UP_S)
            before = await places.connections(self._place)
            began = self.clock.now()
            await self._make(faults, [*guests, *load])
            self.history.seconds = self.clock.now() - began
            await self._calm_down(load)
            self.history.connections = (before, await self._connections(before))
        finally:
            for task in (*guests, *load):
                task.cancel()
            await asyncio.gather(*guests, *load, return_exceptions=True)
        await self._gather()

    def _make_guests(self) -> list[Guest]:
        scale = self._scale
        names = [(f"g{i}", f"c{i % scale.rooms}", False) for i in range(scale.guests)]
        names += [(f"v{i}", f"c{i % scale.rooms}", True) for i in range(scale.victims)]
        self._guests = [
            Guest(
                user, room, self._system.node_urls, self.history, self.clock, seed=self._seed, victim=victim,
                every_s=VICTIM_SAYS_S if victim else scale.say_every_s,
            )
            for user, room, victim in names
        ]  # fmt: skip
        return self._guests

    def _load(self) -> list[Any]:
        scale, work = self._scale, self._workload
        every = scale.command_every_s
        load = [work.numbers(f"room:n{i}", every_s=every) for i in range(scale.subjects)]
        load += [work.numbers(f"room:o{i}", every_s=every, library=True) for i in range(scale.own_subjects)]
        load += [work.sanctions(f"v{i}", f"c{i % scale.rooms}") for i in range(scale.victims)]
        load.append(work.freezes(f"c{scale.rooms - 1}"))
        load.append(work.notices([f"c{i}" for i in range(scale.rooms)], every_s=2.0))
        load.append(work.poison("room:failing", every_s=6.0))
        load.append(work.garbage(every_s=5.0))
        return load

    async def _make(self, faults: list[Fault], everybody: list[asyncio.Task[None]]) -> None:
        """Wave after wave; each waits until its time, and for the one before to be recovered from."""
        strikes = Strikes(self._system, self._workload, self.history, self.clock)
        began = self.clock.now()
        for number, wave in groupby(faults, key=lambda fault: fault.wave):
            of_wave = list(wave)
            await elapsed(max(0.0, began + of_wave[0].at - self.clock.now()))
            late = max(0.0, self.clock.now() - began - of_wave[0].at)

            async def make(fault: Fault, late: float = late) -> None:
                await elapsed(max(0.0, began + late + fault.at - self.clock.now()))
                await strikes.strike(fault)

            async with asyncio.TaskGroup() as together:
                for fault in of_wave:
                    together.create_task(make(fault))
            for task in everybody:
                if task.done():
                    task.result()  # raises what ended it
            took = await self._recovered(number)
            self._say(self._progress(number, of_wave, took))

    async def _recovered(self, wave: int) -> float | None:
        """Seconds from the heal until every subject had a command accepted that was sent after it; all have ended."""
        healed = max(struck.healed for struck in self.history.struck if struck.wave == wave)

        def flowing() -> list[Issued]:
            first: dict[str, Issued] = {}
            for issued in self.history.issued[-RECENT:]:
                if issued.n is not None and issued.accepted is not None and issued.sent >= healed:
                    first.setdefault(issued.subject, issued)
            everybody = len(first) >= self._scale.subjects + self._scale.own_subjects
            return list(first.values()) if everybody else []

        try:
            first: list[Issued] = await until(flowing, CALM_S)
        except AssertionError:
            return None
        # Otherwise the next wave would begin in the middle of this one's recovery.
        await asyncio.gather(*(self._workload.ended(issued, CALM_S) for issued in first))
        return max(issued.accepted or 0.0 for issued in first) - healed

    def _progress(self, number: int, faults: list[Fault], took: float | None) -> str:
        said = sum(each.code == "ok" for each in self.history.said)
        heard = sum(guest.heard for guest in self._guests)
        kinds = "; ".join(f"{s.kind} {s.target}".strip() for s in self.history.struck if s.wave == number)
        return (
            f"{self.clock.now():6.1f} s  wave {number}: {kinds}: commands flow "
            + ("NOT" if took is None else f"after {took:.2f} s")
            + f"; accepted {self._workload.accepted}, said {said}, heard {heard}, nodes {len(self._system.running())}"
        )

    async def _calm_down(self, load: list[asyncio.Task[None]]) -> None:
        """No more load; wait until what was accepted has ended and everybody is level."""
        await self._place.heal()
        self.clock.over.set()
        await asyncio.wait(load, timeout=QUIET_S)
        with contextlib.suppress(AssertionError):
            await until(self._nothing_left, QUIET_S)
        with contextlib.suppress(AssertionError):
            await until(
                lambda: all(guest.settled for guest in self._guests if guest.inside or not guest.victim), LEVEL_S
            )
        for guest in self._guests:
            guest.give_up()
        with contextlib.suppress(AssertionError):
            await until(self._all_level, LEVEL_S)

    async def _nothing_left(self) -> bool:
        with contextlib.suppress(BridgeError):
            return not any(info.length for info in await self._bridge.shard_infos())
        return False

    async def _all_level(self) -> bool:
        ends = {}
        for room in {guest.room for guest in self._guests}:
            position = await answered(partial(self._bridge.channels.position, self._channel(room)))
            ends[room] = position.offset if position else 0
        return all(guest.place is not None and guest.place.offset == ends[guest.room] for guest in self._at_home())

    def _at_home(self) -> list[Guest]:
        """Guests who have to be in their room in the end: victims may have been banned."""
        return [guest for guest in self._guests if guest.inside or not guest.victim]

    async def _connections(self, wanted: int) -> int:
        count = await places.connections(self._place)
        with contextlib.suppress(AssertionError):
            await until(lambda: self._as_before(wanted), 10)
            count = await places.connections(self._place)
        return count

    async def _as_before(self, wanted: int) -> bool:
        return await places.connections(self._place) <= wanted

    def _channel(self, room: str) -> Channel:
        return Channel.of_subject(f"room:{room}", self._bridge.shards)

    async def _gather(self) -> None:
        """What Redis holds in the end."""
        history, bridge = self.history, self._bridge
        for guest in self._at_home():
            if guest.place is not None:
                history.present[guest.user, guest.room] = (guest.place.epoch, guest.place.offset)
        for room in range(self._scale.rooms):
            for each in await bridge.channels.log(self._channel(f"c{room}")):
                text = each.data.get("text") or _kind(each.type)
                history.kept.append(Kept(f"c{room}", each.epoch, each.offset, text))
        for subject in sorted({issued.subject for issued in history.issued if issued.n is not None}):
            history.lines += await self._lines(subject)
        for issued in history.issued:
            if issued.n is None and issued.id:
                outcome = await bridge.outcome(issued.id)
                issued.ended = outcome.state if outcome is not None and outcome.ended else None
        await self._letters()
        history.keys = await places.all_keys(self._place)
        history.complaints += self._system.complaints()

    async def _lines(self, subject: str) -> list[Line]:
        key = self._bridge.keys.state(self._bridge.shard_of(subject), subject, plugin.LEDGER)
        lines = []
        for entry, fields in await self._bridge.redis.call("XRANGE", key, "-", "+"):
            line = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
            written = int(entry.split(b"-")[0]) / 1000  # never ahead of time, but behind while the clock is set back
            at = self.clock.of_wall(max(written, float(line["at"])))
            lines.append(Line(subject, line["id"], int(line["n"]), line["before"], at))
        return lines

    async def _letters(self) -> None:
        for requeued in (False, True):
            cursor = None
            while True:
                page = await self._bridge.dead.page(limit=500, cursor=cursor, requeued=requeued)
                self.history.letters += [Letter(x.id, x.type, x.cause_code, x.attempts) for x in page.items]
                cursor = page.next_cursor
                if cursor is None:
                    break


def _kind(type: str) -> str:
    """How clients' events without a text are noted."""
    return {"room": "RoomChanged", "deleted": "Deleted"}.get(type, type)


def deliveries(history: History) -> int:
    return sum(not isinstance(entry, Entered) for entry in history.places)


def slowest(history: History) -> list[float]:
    return sorted(each.seconds for each in recoveries(history) if each.seconds is not None)
