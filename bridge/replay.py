"""What a publisher has accepted goes to its journal before anybody is told, and back to a server that may lack it.

A server's incarnation changes when it restarts and when a replica takes its place; its last writes may be missing
then. So each command is sent with the incarnation on which this publisher has put back everything. A server that is
another one refuses it, and the journal's rows of the shard go there first, in the order of their acceptance. Rows whose
command is there change nothing. Whoever publishes nothing at the moment looks twice a second.

A row leaves once its command has ended and its server has been the same for a while.

What a shard's server has of a publisher, and what moves it on:
    nothing → current   it starts without rows, or takes part again: ``vouch`` with ``*`` or the incarnation
    current → behind    the incarnation changes; nobody writes anything
    behind → "-"        it has noticed, and begins to put back; new commands wait for it
    "-" → current       every row is back
    any → nothing       it leaves without rows, its rows were taken over, or its installation is another now
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from bridge.clock import ServerClock
from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.errors import NotRecorded, OtherHistory, Replaying, Unreachable
from bridge.journal import Journal, Row, minted
from bridge.keys import Keys
from bridge.putting_back import ROWS_A_LOOK, PuttingBack, relevant
from bridge.self_check import agree, installation
from bridge.shard_stream import ShardStream
from bridge.telemetry import JournalSetAside, Replayed, StepFailed, Telemetry

WINDOW_S = 120.0  # that long a server stays the same before it counts as having everything
LOOK_EVERY_S = 0.5
VOUCH_EVERY_LOOKS = 8  # each shard is told so often that this publisher lives
AGAIN_S = 1.0  # what a caller is told whose own publisher is putting back still
T = TypeVar("T")


class Replay:
    """See the module. ``running`` is its whole life."""

    def __init__(
        self,
        journal: Journal,
        redis: Redis,
        keys: Keys,
        streams: Sequence[ShardStream],
        settings: BridgeSettings,
        telemetry: Telemetry,
    ) -> None:
        self.journal = journal
        # Rows of what has ended leave after the window, all others before their idempotency keys run out.
        self.window_s = min(WINDOW_S, settings.outcome_seconds / 10)
        self._too_old_s = settings.outcome_seconds * 0.9
        self._redis, self._keys, self._streams, self._telemetry = redis, keys, streams, telemetry
        self._settings = settings
        self._known: dict[int, str] = {}  # shard → incarnation on which all rows were put back
        self._since: dict[int, float] = {}  # loop time of that
        self._stale: set[int] = set()  # shards that got a row of another incarnation meanwhile
        self._catching_up: dict[int, asyncio.Task[None]] = {}
        self._clock = ServerClock()
        self._switching = asyncio.Lock()
        self._departed: set[str] = set()  # whose rows are ours now; no shard need wait for them
        self._looks = 0
        self._stirred = asyncio.Event()
        self._tidied_at = 0.0

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        directory: Path,
        redis: Redis,
        keys: Keys,
        streams: Sequence[ShardStream],
        settings: BridgeSettings,
        telemetry: Telemetry,
    ) -> AsyncIterator[Self]:
        """With a journal in ``directory`` whose rows have been put back already. Raises Misconfigured, Unreachable."""
        journal = await Journal.open(directory, await installation(redis, keys))
        replay = cls(journal, redis, keys, streams, settings, telemetry)
        redis.on_connected(replay._stirred.set)
        redis.on_moved(replay._stirred.set)
        looking: asyncio.Task[None] | None = None
        try:
            await replay._start()
            looking = asyncio.create_task(replay._run(), name="replay")
            yield replay
        finally:
            await _end(*(task for task in (looking, *replay._catching_up.values()) if task is not None))
            await replay._leave()
            await replay.journal.close()

    async def accept(self, shard: int, run: Callable[[str], Awaitable[T]], row: Callable[[T, str], Row | None]) -> T:
        """Have ``run`` accept something on this incarnation, and keep the row of its answer. Raises what either does.

        Once it has returned, the row is on disk.
        """
        deadline = asyncio.get_running_loop().time() + self._redis.timeout
        while True:
            journal, known = self.journal, self._known.get(shard, "-")
            journal.check_room()
            try:
                answer = await run(known)
            except OtherHistory:
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._catch_up(shard)
                except TimeoutError:
                    raise Replaying(shard, AGAIN_S) from None
            else:
                return await self._keep(journal, answer, row(answer, known))

    async def be_current(self, shard: int) -> None:
        """Return once the shard's server has all that this journal has for it. Raises Replaying, Unreachable."""

        async def look(knows: str) -> None:
            current = await self._streams[shard].vouch(self.journal.publisher, knows)
            if current != knows:
                raise OtherHistory(current)

        await self.accept(shard, look, lambda _answer, _incarnation: None)

    async def _keep(self, journal: Journal, answer: T, accepted: Row | None) -> T:
        if accepted is not None:
            if journal is not self.journal:
                raise NotRecorded("Redis became another installation's while the command was accepted")
            await journal.add(accepted, self._accepted_at(accepted))
            if self._known.get(accepted.shard) != accepted.incarnation:  # another server took its place meanwhile
                self._known.pop(accepted.shard, None)
                self._stale.add(accepted.shard)
                self._stirred.set()
        return answer

    def _accepted_at(self, row: Row) -> float:
        """By the server's clock, which its id has unless that is the id of what it withdraws."""
        return self._clock.now() if row.operation in ("cancel", "discard") else minted(row.id)

    async def _ask_the_time(self) -> None:
        seconds, micros = await self._redis.call("TIME")
        self._clock.heard(int(seconds) + int(micros) / 1e6)

    # looking after servers

    async def step(self) -> None:
        """Look at each primary, and put back what is missing on those that are others than before."""
        self._looks += 1
        with suppress(Unreachable):
            await self._check_installation(self._streams[0])
        groups: defaultdict[object, list[ShardStream]] = defaultdict(list)
        for stream in self._streams:
            groups[self._redis.placement.owner(self._keys.publishers(stream.shard))].append(stream)
        await asyncio.gather(*(self._look(group) for group in groups.values()))
        if time.monotonic() - self._tidied_at > self.window_s / 4:
            self._tidied_at = time.monotonic()
            await self._adopt()
            await self._tidy()

    async def _look(self, group: Sequence[ShardStream]) -> None:
        """One primary's shards: a part of them is told that this publisher lives."""
        # Where rows are being put back, that has the last word: "-" behind it would keep others waiting.
        idle = [each for each in group if (task := self._catching_up.get(each.shard)) is None or task.done()]
        told = idle[self._looks % VOUCH_EVERY_LOOKS :: VOUCH_EVERY_LOOKS] or idle[:1]
        answers = await asyncio.gather(*(self._vouch(stream) for stream in told), return_exceptions=True)
        current = {answer for answer in answers if isinstance(answer, str)}
        behind = [each.shard for each in group if {self._known.get(each.shard)} != current or each.shard in self._stale]
        if current:
            await self._each(behind, self._catch_up)

    async def _each(self, shards: Iterable[int], work: Callable[[int], Awaitable[None]]) -> None:
        """One shard's fault, as where its primary is gone, keeps no other from being looked after."""
        shards = list(shards)
        errors = await asyncio.gather(*map(work, shards), return_exceptions=True)
        told: defaultdict[str, list[int]] = defaultdict(list)
        for shard, error in zip(shards, errors, strict=True):
            if isinstance(error, Exception):
                told[f"{type(error).__name__}: {error}"].append(shard)
        for cause, where in told.items():
            self._telemetry.emit(StepFailed("replay", f"shard {', '.join(map(str, where))}: {cause}"))

    async def _vouch(self, stream: ShardStream) -> str:
        return await stream.vouch(self.journal.publisher, self._known.get(stream.shard, "-"))

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stirred.wait()
            except TimeoutError:
                pass
            self._stirred.clear()
            try:
                await self.step()
            except Exception as error:
                self._telemetry.emit(StepFailed("replay", f"{type(error).__name__}: {error}"))

    async def _start(self) -> None:
        await self._take_over()
        used = await self.journal.has()

        async def begin(stream: ShardStream) -> None:
            if stream.shard in used:
                await self._catch_up(stream.shard)
            else:
                self._stands(stream.shard, await stream.vouch(self.journal.publisher, "*"))

        await asyncio.gather(*map(begin, self._streams))
        await self._say_farewell()

    async def _leave(self) -> None:
        """Nobody need wait for this one; with rows left it may come again."""
        used = await self.journal.has()
        farewells = (
            stream.vouch(self.journal.publisher, self._known.get(stream.shard, "-"), leaving=True)
            if stream.shard in used
            else stream.vouch(self.journal.publisher, "")
            for stream in self._streams
        )
        await asyncio.gather(*farewells, return_exceptions=True)

    # putting back

    async def _catch_up(self, shard: int) -> None:
        """Put back what the shard's server lacks; everybody who asks meanwhile shares the one pass."""
        task = self._catching_up.get(shard)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._put_all_back(shard), name=f"replay-{shard}")
            self._catching_up[shard] = task
        await asyncio.shield(task)

    async def _put_all_back(self, shard: int) -> None:
        stream, began = self._streams[shard], time.monotonic()
        tally: Counter[str] = Counter()
        self._known.pop(shard, None)
        while True:
            self._stale.discard(shard)
            current = await self._arrive(stream)
            journal = self.journal
            putting_back = PuttingBack(journal, stream, self._clock, self._too_old_s, self._telemetry)
            with suppress(OtherHistory):
                await putting_back.run(current)
                tally += putting_back.tally
                found = await stream.vouch(journal.publisher, "-" if shard in self._stale else current)
                if found == current and shard not in self._stale and journal is self.journal:
                    break
        self._stands(shard, current)
        if tally:
            took_s = time.monotonic() - began
            self._telemetry.emit(Replayed(shard, current, tally.total(), tally["accepted"], took_s))

    async def _arrive(self, stream: ShardStream) -> str:
        """The server's incarnation, once it is certain that the journal's rows belong there."""
        while True:
            await self._check_installation(stream)  # before it is told to wait for this publisher
            journal = self.journal
            current = await stream.vouch(journal.publisher, "-")
            await self._check_installation(stream)
            if journal is self.journal:
                await self._ask_the_time()
                return current

    async def _check_installation(self, stream: ShardStream) -> None:
        """Begin another journal where Redis is not the one, or does not hold what it held, when this one began."""
        try:
            found = await self._redis.call("HGET", self._keys.meta, "installation")
        except Unreachable:  # of a cluster, another primary has that key; its absence holds up its own shards only
            owner = self._redis.placement.owner
            if owner(self._keys.meta) == owner(self._keys.publishers(stream.shard)):
                raise
            return
        if found is not None and found.decode() == self.journal.installation:
            return
        async with self._switching:
            await agree(self._redis, self._keys, self._settings)  # where it was emptied
            name = await installation(self._redis, self._keys)
            if name != self.journal.installation:
                await self._begin_anew(name)

    async def _begin_anew(self, installation: str) -> None:
        old = self.journal
        self.journal = await Journal.open(old.path.parent, installation, max_rows=old.max_rows)
        self._known.clear()
        farewells = (stream.vouch(old.publisher, "") for stream in self._streams)
        await asyncio.gather(*farewells, return_exceptions=True)
        self._telemetry.emit(JournalSetAside(str(old.path), old.count, installation))
        await old.close()

    def _stands(self, shard: int, incarnation: str) -> None:
        self._known[shard] = incarnation
        self._since[shard] = time.monotonic()

    # tidying up

    async def _adopt(self) -> None:
        """Take over from processes that are gone."""
        await self._take_over()
        if not self._departed:
            return
        used = await self.journal.has()
        behind = [shard for shard, incarnations in used.items() if incarnations != {self._known.get(shard)}]
        self._stale.update(behind)
        await self._each(behind, self._catch_up)
        if all(shard in self._known for shard in behind):
            await self._say_farewell()

    async def _take_over(self) -> None:
        adopted = await self.journal.adopt()
        self._departed.update(adopted.publishers)
        for path, cause in adopted.faults:
            self._telemetry.emit(StepFailed("replay", f"the journal file {path} is left alone: {cause}"))

    async def _say_farewell(self) -> None:
        """Nobody need wait for publishers that cannot come, as their rows are back."""
        for name in sorted(self._departed):
            farewells = (stream.vouch(name, "") for stream in self._streams)
            said = await asyncio.gather(*farewells, return_exceptions=True)
            if not any(isinstance(error, BaseException) for error in said):
                self._departed.discard(name)

    async def _tidy(self) -> None:
        """Forget rows of commands that have ended on a server that has been the same for the window."""
        await self._ask_the_time()
        stood = [shard for shard, since in self._since.items() if time.monotonic() - since >= self.window_s]
        await self._each(stood, self._tidy_shard)

    async def _tidy_shard(self, shard: int) -> None:
        known, before = self._known.get(shard), self._clock.now() - self.window_s
        after: Row | None = None
        while known and (rows := await self.journal.older(shard, known, before, after, ROWS_A_LOOK)):
            after = rows[-1]
            stands = await self._streams[shard].stand([(row.id, row.operation == "schedule") for row in rows])
            over = [row.number for row, does in zip(rows, stands, strict=True) if does or self._is_over(row)]
            await self.journal.forget(over)

    def _is_over(self, row: Row) -> bool:
        """It needs no outcome, or it has been waiting for longer than a replay would be safe."""
        return row.operation in ("cancel", "discard") or self._clock.now() - relevant(row) > self._too_old_s


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
