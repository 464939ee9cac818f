"""Users of the chat: each in one room, says numbered messages, and notes what it hears."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from bridge.chat.client import (
    ChatClient,
    ChatError,
    Closed,
    Deleted,
    Joined,
    Message,
    Notice,
    Published,
    Resumed,
    RoomChanged,
    RoomEvent,
    RoomLost,
    Sanctioned,
)
from bridge.envelope import Position
from tests.chatserver.client import token
from tests.faults.pace import elapsed
from tests.nemesis.clock import Clock
from tests.nemesis.history import Entered, Heard, History, Said, text_of

PATIENCE_S = 8.0
AGAIN_S = 0.5


class Guest:
    """One user. Comes back whatever happens to it."""

    def __init__(
        self,
        user: str,
        room: str,
        urls: Callable[[], Sequence[str]],
        history: History,
        clock: Clock,
        *,
        every_s: float,
        seed: str,
        victim: bool = False,
    ) -> None:
        self.user, self.room, self.victim = user, room, victim  # of operators, who may have banned it in the end
        self.heard = 0
        self.inside = False  # the room, as far as it knows
        self.place: Position | None = None
        self._urls, self._history, self._clock = urls, history, clock
        self._every_s, self._chance = every_s, random.Random(f"{seed} {user}")
        self._token = token(user, seconds=6 * 3600)
        self._history_until = 0  # what follows a room that was not recovered is from before, up to there
        self._n = 0
        self._asked: float | None = None  # when the message number _n was first said; None: it has its answer

    async def run(self) -> None:
        """Until cancelled; nothing is said any more once the clock is over."""
        while True:
            try:
                async with ChatClient(
                    self._urls, self._token, rng=self._chance, patience_s=PATIENCE_S, name="nemesis"
                ) as client:
                    await self._stay(client)
            except (Closed, ChatError):
                self.inside = False
                await elapsed(AGAIN_S)

    @property
    def settled(self) -> bool:
        """Whether everything it said has its answer."""
        return self._asked is None

    def give_up(self) -> None:
        """What has no answer by now has none."""
        if self._asked is not None:
            self._note("unknown")

    async def _stay(self, client: ChatClient) -> None:
        await self._enter(client)
        talking = asyncio.create_task(self._talk(client), name=f"{self.user} talks")
        try:
            async for event in client:
                if not self._hear(event):
                    return
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)

    async def _enter(self, client: ChatClient) -> None:
        """Raises Closed."""
        while True:
            try:
                self._entered(await client.join(self.room, self.place))
                return
            except ChatError:  # banned, or Redis is away
                await elapsed(AGAIN_S)

    def _entered(self, joined: Joined) -> None:
        since = self.place.offset if self.place is not None else None
        told = since is not None and joined.recovered
        self._arrive(joined, since, recovered=told)
        for event in joined.messages if told else ():
            self._got(event)
        self.place = joined.position

    def _arrive(self, joined: Joined, since: int | None, *, recovered: bool) -> None:
        at, self.inside = joined.position, True
        self._history.places.append(Entered(self.user, self.room, at.epoch, at.offset, since, recovered))
        if not recovered or self.place is None:
            self.place, self._history_until = at, at.offset
        else:
            self.place, self._history_until = Position(at.epoch, self.place.offset), 0

    def _hear(self, event: object) -> bool:
        """Whether it is still in its room. If not, another session begins: this one may have older events in line."""
        match event:
            case Resumed(recovered=recovered, joined=joined):
                self._arrive(joined, self.place.offset if self.place else None, recovered=recovered)
            case RoomLost() | Sanctioned(kind="kick" | "ban", room=str()):
                self.inside = False
            case Message() | Deleted() | Notice(offset=int()) | RoomChanged() | Published():
                self._got(event)
        return self.inside

    def _got(self, event: RoomEvent) -> None:
        assert self.place is not None
        offset = event.offset
        assert offset is not None
        if offset <= self._history_until:
            return
        text = getattr(event, "text", None) or type(event).__name__
        self._history.places.append(Heard(self.user, self.room, self.place.epoch, offset, text, self._clock.now()))
        self.heard += isinstance(event, Message)
        self.place = Position(self.place.epoch, offset)

    async def _talk(self, client: ChatClient) -> None:
        pause = self._chance.uniform(0, self._every_s)
        while self._asked is not None or not await self._clock.pause(pause):
            if self._asked is None:
                self._n, self._asked = self._n + 1, self._clock.now()
            try:
                said = await client.say(self.room, text_of(self.user, self._n), f"n{self._n}")
            except ChatError as error:
                if error.temporary:
                    await elapsed(AGAIN_S)
                    continue
                self._note(error.code)
            except Closed:
                return
            else:
                self._note("ok", said.offset)
            pause = self._chance.uniform(0.5, 1.5) * self._every_s

    def _note(self, code: str, offset: int | None = None) -> None:
        assert self._asked is not None
        self._history.said.append(Said(self.user, self.room, self._n, self._asked, self._clock.now(), code, offset))
        self._asked = None
