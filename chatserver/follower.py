"""One channel, followed: its publications in order, each once, gaps filled from its log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from bridge.channels import Channel, Channels
from bridge.envelope import Position, Publication, decode_publication
from bridge.errors import BridgeError, Unreachable
from bridge.keys import Keys
from bridge.subscriptions import Subscription, Subscriptions

log = structlog.get_logger(__name__)

SUBSCRIBE_TIMEOUT_S: Final = 1.0
MAX_HELD: Final = 10_000  # publications that wait while the log is read
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.05, 1.0

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Follower:
    """Delivers what comes after the place it was told with ``begin``.

    ``deliver`` gets every publication; ``lost`` is called when some cannot be had any more,
    and the follower waits for another ``begin`` then. ``reconnected`` is called after the
    subscription was away, whether or not anything was missed. All three must not block.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        channels: Channels,
        subscriptions: Subscriptions,
        keys: Keys,
        spawn: Spawn,
        deliver: Callable[[Publication], None],
        lost: Callable[[], None],
        reconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self.channel = channel
        self.position: Position | None = None  # of the last one delivered; None before ``begin``
        self._channels, self._subscriptions, self._spawn = channels, subscriptions, spawn
        self._key = keys.channel(channel.shard, channel.name)
        self._deliver, self._lost, self._reconnected = deliver, lost, reconnected
        self._subscription: Subscription | None = None
        self._subscribing = asyncio.Lock()
        self._holding = True  # until ``begin``, and while the log is read
        self._held: list[Publication] = []
        self._recovering = False
        self._look_again = False
        self._interrupted = False  # between ``subscribe`` and ``begin``
        self._behind_at: Position | None = None  # where we were when somebody saw the channel further on

    async def subscribe(self) -> None:
        """Hold what comes from now on, until ``begin``. Raises Unreachable."""
        try:
            # Whoever waits for somebody else's attempt has begun to wait, too: a thousand that join together hear
            # together that it cannot be had.
            async with asyncio.timeout(SUBSCRIBE_TIMEOUT_S), self._subscribing:
                if self._subscription is None:
                    self._subscription = await self._subscriptions.subscribe(self._key, self._heard, on_gap=self._gap)
        except TimeoutError:
            raise Unreachable(f"no subscription to {self.channel.name} in time") from None

    def begin(self, position: Position) -> None:
        """Everything up to here is known by other means; deliver what came after it."""
        if self.position is None:
            self.position = position
            if self._interrupted:
                self._interrupted = False
                self._recover()
            else:
                self._release()

    def look(self, place: Position | None) -> None:
        """Somebody saw the channel's last publication there; called about once a second.

        If nothing came since the look before, though something was due then already, it was lost
        on its way without a sign, and the log is read.
        """
        at = self.position
        if at is None or self._holding or place is None or (place.epoch == at.epoch and place.offset <= at.offset):
            self._behind_at = None
        elif self._behind_at == at:
            self._behind_at = None
            self._recover()
        else:
            self._behind_at = at

    def close(self) -> None:
        """End the subscription; nothing is delivered any more."""
        if self._subscription is not None:
            self._subscriptions.unsubscribe(self._subscription)
        self.position, self._holding = None, True

    def _heard(self, message: bytes) -> None:
        self._hear(decode_publication(message))

    def _hear(self, publication: Publication) -> None:
        if not self._holding:
            self._take(publication)
        elif len(self._held) < MAX_HELD:
            self._held.append(publication)
        # else: the jump that follows is filled from the log

    def _gap(self) -> None:
        self._reconnected()
        if self.position is not None:
            self._recover()
        else:
            self._interrupted = True

    def _take(self, publication: Publication) -> None:
        at = self.position
        assert at is not None
        if publication.epoch == at.epoch and publication.offset <= at.offset:
            return
        if publication.offset == at.offset + 1 and publication.epoch == at.epoch:
            self._next(publication)
        else:  # a jump; or another life of the server, which may lack what we have
            self._held.append(publication)
            self._recover()

    def _next(self, publication: Publication) -> None:
        self.position = Position(publication.epoch, publication.offset)
        try:
            self._deliver(publication)
        except Exception:  # a fault of ours or of its publisher: what follows is delivered all the same
            log.exception("a publication was not delivered", channel=publication.channel, offset=publication.offset)

    def _release(self) -> None:
        held, self._held, self._holding = self._held, [], False
        for publication in held:
            self._hear(publication)

    def _recover(self) -> None:
        self._look_again = self._holding = True
        if not self._recovering:
            self._recovering = True
            self._spawn(self._read_log())

    async def _read_log(self) -> None:
        pause = _BACKOFF_FIRST_S
        try:
            while self._look_again and self.position is not None:
                if await self._has_read(self.position):
                    pause = _BACKOFF_FIRST_S
                else:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _BACKOFF_MOST_S)
        finally:
            self._recovering = False

    async def _has_read(self, at: Position) -> bool:
        """False: the log cannot be read, or has nothing yet of what was heard; if its server died, it never will."""
        self._look_again = False
        try:
            found = await self._channels.log(self.channel, after=max(at.offset - 1, 0))
        except BridgeError:
            self._look_again = True
            return False
        heard_more = self._look_again
        self._fill(found)
        return heard_more or not self._look_again or self.position != at

    def _fill(self, log: list[Publication]) -> None:
        """Go on from the log, which begins with the last one delivered if nothing was lost."""
        if self.position is None or self._look_again:
            return
        following = _after(self.position, log)
        if following is None:
            self.position, self._held = None, []  # still holding, for the next ``begin``
            self._lost()
            return
        for publication in following:
            self._next(publication)
        if self.position is not None:
            self._held = [p for p in self._held if p.offset > self.position.offset]
            self._release()


def _after(at: Position, log: list[Publication]) -> list[Publication] | None:
    """The publications that follow ``at``; None if the log contradicts it or lacks some.

    The epoch changes with every life of the server. Where the log holds the very publication that
    we had last, nothing of ours was lost, and it goes on from there. Pure.
    """
    if at.offset and (not log or (log[0].offset, log[0].epoch) != (at.offset, at.epoch)):
        # Exactly our last one may have been trimmed; then the same epoch vouches for it.
        if not log or (log[0].offset, log[0].epoch) != (at.offset + 1, at.epoch):
            return None
        following = log
    else:
        following = log[1:] if at.offset else log
    consecutive = all(p.offset == at.offset + 1 + i for i, p in enumerate(following))
    return following if consecutive else None
