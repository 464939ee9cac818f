"""Receive publications: one connection and one task for each primary, which come back by themselves.

Pub/sub forgets what a dropped connection missed, and a server whose slot moves away says nothing more.
So whoever subscribes is told of every renewed confirmation (``on_gap``) and reads the channel's log then;
and a channel is followed to its new primary as soon as anybody learns of it: by the server's own
``sunsubscribe``, by a call that was sent elsewhere, or by the look that `connection` takes each second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from bridge.connection import Redis
from bridge.errors import BridgeError
from bridge.hearing import Hearing
from bridge.link import Endpoint, Link
from bridge.telemetry import Disconnected, Resubscribed, StepFailed, Telemetry
from bridge.topology import slot_of


class Subscription:
    """One listener on one channel."""

    def __init__(self, channel: str, listener: Callable[[bytes], None], on_gap: Callable[[], None] | None) -> None:
        self.channel, self.listener, self.on_gap = channel, listener, on_gap
        self.confirmed = asyncio.Event()


class _Receiver:
    """The subscribing connection to one primary."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float,
        telemetry: Telemetry,
        on_push: Callable[[_Receiver, list[Any]], None],
        on_refused: Callable[[_Receiver, BridgeError], bool],
        on_lost: Callable[[], None],
    ) -> None:
        self._endpoint, self._telemetry, self._on_lost = endpoint, telemetry, on_lost
        self._hearing = Hearing(
            endpoint,
            timeout=timeout,
            on_open=self._opened,
            on_push=partial(on_push, self),
            on_refused=partial(on_refused, self),
            on_lost=self._lost,
        )
        self.run = self._hearing.run
        self.channels: set[bytes] = set()

    @property
    def connected(self) -> bool:
        return self._hearing.link is not None

    def add(self, channel: bytes) -> None:
        self.channels.add(channel)
        if (link := self._hearing.link) is not None:
            link.write("SSUBSCRIBE", channel)

    def remove(self, channel: bytes) -> None:
        self.channels.discard(channel)
        if (link := self._hearing.link) is not None:
            link.write("SUNSUBSCRIBE", channel)

    def _opened(self, link: Link) -> None:
        for channel in self.channels:
            link.write("SSUBSCRIBE", channel)
        self._telemetry.emit(Resubscribed(len(self.channels)))

    def _lost(self, cause: str) -> None:
        self._telemetry.emit(Disconnected(f"{self._endpoint} (subscriptions)", cause))
        self._on_lost()


class Subscriptions:
    """All of a process' channels."""

    def __init__(self, redis: Redis, *, telemetry: Telemetry) -> None:
        self._redis, self._telemetry = redis, telemetry
        self._by_channel: dict[bytes, list[Subscription]] = {}
        self._receivers: dict[Endpoint, _Receiver] = {}
        self._where: dict[bytes, _Receiver] = {}
        self._changed = asyncio.Event()
        self._strayed = False  # a server has dropped a channel
        self._lost: list[Callable[[], None]] = []
        redis.on_moved(self._changed.set)

    async def subscribe(
        self, channel: str, listener: Callable[[bytes], None], *, on_gap: Callable[[], None] | None = None
    ) -> Subscription:
        """Call ``listener`` with every message of a channel, in order; returns once Redis confirmed.

        ``on_gap`` is called after each later confirmation: messages may have been missed. Both run on
        the loop and must not block. Waits as long as Redis is away.
        """
        subscription, name = Subscription(channel, listener, on_gap), channel.encode()
        others = self._by_channel.setdefault(name, [])
        if any(other.confirmed.is_set() for other in others) and self._is_up(name):
            subscription.confirmed.set()
        others.append(subscription)
        if len(others) == 1:
            self._assign(name)
        try:
            await subscription.confirmed.wait()
        except asyncio.CancelledError:
            self.unsubscribe(subscription)
            raise
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it now; the listener is not called again."""
        name = subscription.channel.encode()
        others = self._by_channel.get(name, [])
        if subscription not in others:
            return
        others.remove(subscription)
        if not others:
            del self._by_channel[name]
            receiver = self._where.pop(name, None)
            if receiver is not None:
                receiver.remove(name)

    def on_lost(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` whenever a connection drops, and the subscriptions on it; returns what ends that."""
        self._lost.append(listener)
        return lambda: self._lost.remove(listener)

    def _tell_lost(self) -> None:
        self._redis.look_soon()
        for listener in tuple(self._lost):
            listener()

    @property
    def connected(self) -> bool:
        return bool(self._receivers) and all(receiver.connected for receiver in self._receivers.values())

    async def run(self) -> None:
        """Keep the connections up until cancelled."""
        tasks: dict[Endpoint, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                await self._follow(tasks)
                await self._changed.wait()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _follow(self, tasks: dict[Endpoint, asyncio.Task[None]]) -> None:
        """Have a receiver for each primary, and every channel at its own."""
        if self._strayed:
            self._strayed = False
            await self._redis.look()
        primaries = self._redis.placement.primaries
        for endpoint in primaries:
            if endpoint not in tasks:
                receiver = self._receivers[endpoint] = _Receiver(
                    endpoint,
                    timeout=self._redis.timeout,
                    telemetry=self._telemetry,
                    on_push=self._pushed,
                    on_refused=self._refused,
                    on_lost=self._tell_lost,
                )
                tasks[endpoint] = asyncio.create_task(receiver.run(), name=f"subscriptions-{endpoint}")
        for channel in tuple(self._by_channel):
            self._assign(channel)
        for endpoint in [endpoint for endpoint in tasks if endpoint not in primaries]:
            del self._receivers[endpoint]
            tasks[endpoint].cancel()
            await asyncio.gather(tasks.pop(endpoint), return_exceptions=True)

    def _assign(self, channel: bytes) -> None:
        owner = self._redis.placement.owner(channel)
        receiver = self._receivers.get(owner) if owner is not None else None
        before = self._where.get(channel)
        if receiver is None or receiver is before:
            return
        if before is not None:
            before.remove(channel)
        self._where[channel] = receiver
        receiver.add(channel)

    def _is_up(self, channel: bytes) -> bool:
        receiver = self._where.get(channel)
        return receiver is not None and receiver.connected

    def _pushed(self, receiver: _Receiver, push: list[Any]) -> None:
        kind, channel = push[0], push[1]
        subscriptions = tuple(self._by_channel.get(channel, ()))
        if self._where.get(channel) is not receiver:
            return  # from the primary that it had before
        if kind == b"smessage":
            for subscription in subscriptions:
                if subscription.confirmed.is_set():
                    self._tell(subscription, push[2])
        elif kind == b"ssubscribe":
            for subscription in subscriptions:
                if not subscription.confirmed.is_set():
                    subscription.confirmed.set()
                elif subscription.on_gap is not None:
                    subscription.on_gap()
        elif kind == b"sunsubscribe" and subscriptions:
            # The slot went elsewhere, or we left and came back within one turn: ask again, here or there.
            self._stray(receiver, channel)

    def _refused(self, receiver: _Receiver, error: BridgeError) -> bool:
        """Whether it is about a slot that went elsewhere, before we had heard of that."""
        word, _, rest = str(error).partition(" ")
        if word != "MOVED":
            return False
        slot = int(rest.split(" ")[0])
        for channel in tuple(receiver.channels):
            if slot_of(channel) == slot:
                self._stray(receiver, channel)
        return True

    def _stray(self, receiver: _Receiver, channel: bytes) -> None:
        receiver.channels.discard(channel)
        if self._where.get(channel) is receiver:
            del self._where[channel]
        self._strayed = True
        self._changed.set()

    def _tell(self, subscription: Subscription, message: bytes) -> None:
        try:
            subscription.listener(message)
        except Exception as error:
            self._telemetry.emit(StepFailed(f"listener of {subscription.channel}", f"{type(error).__name__}: {error}"))
