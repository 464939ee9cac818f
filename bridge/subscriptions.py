"""Receive publications: one connection and one task, which come back by themselves.

Pub/sub forgets what a dropped connection missed. Whoever subscribes is told of every
renewed confirmation (``on_gap``) and reads the channel's log then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from bridge.connection import endpoint_of
from bridge.errors import BridgeError, Unreachable
from bridge.link import Link
from bridge.telemetry import Disconnected, Resubscribed, StepFailed, Telemetry

PING_EVERY_S = 1.0
_RECONNECT_FIRST_S, _RECONNECT_MOST_S = 0.02, 0.5


class Subscription:
    """One listener on one channel."""

    def __init__(self, channel: str, listener: Callable[[bytes], None], on_gap: Callable[[], None] | None) -> None:
        self.channel, self.listener, self.on_gap = channel, listener, on_gap
        self.confirmed = asyncio.Event()


class Subscriptions:
    """All of a process' channels on one connection."""

    def __init__(self, url: str, *, telemetry: Telemetry, timeout: float = 1.0) -> None:
        self._endpoint, self._telemetry, self._timeout = endpoint_of(url), telemetry, timeout
        self._by_channel: dict[bytes, list[Subscription]] = {}
        self._link: Link | None = None

    async def subscribe(
        self, channel: str, listener: Callable[[bytes], None], *, on_gap: Callable[[], None] | None = None
    ) -> Subscription:
        """Call ``listener`` with every message of a channel, in order; returns once Redis confirmed.

        ``on_gap`` is called after each later confirmation: messages may have been missed. Both run on
        the loop and must not block. Waits as long as Redis is away.
        """
        subscription = Subscription(channel, listener, on_gap)
        others = self._by_channel.setdefault(channel.encode(), [])
        others.append(subscription)
        if any(other.confirmed.is_set() for other in others) and self._link is not None:
            subscription.confirmed.set()
        elif self._link is not None and len(others) == 1:
            self._link.write("SSUBSCRIBE", channel)
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
            if self._link is not None:
                self._link.write("SUNSUBSCRIBE", subscription.channel)

    @property
    def connected(self) -> bool:
        return self._link is not None

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        pause = _RECONNECT_FIRST_S
        while True:
            lost = asyncio.get_running_loop().create_future()
            try:
                link = await Link.open(
                    self._endpoint,
                    timeout=self._timeout,
                    on_push=self._pushed,
                    on_lost=lambda cause, lost=lost: lost.done() or lost.set_result(cause),
                )
            except BridgeError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_MOST_S)
                continue
            pause = _RECONNECT_FIRST_S
            try:
                await self._attend(link, lost)
            finally:
                self._link = None
                link.close()
            self._telemetry.emit(Disconnected(f"{self._endpoint} (subscriptions)", str(lost.result())))

    async def _attend(self, link: Link, lost: asyncio.Future[str]) -> None:
        self._link = link
        for channel in self._by_channel:
            link.write("SSUBSCRIBE", channel)
        self._telemetry.emit(Resubscribed(len(self._by_channel)))
        while not lost.done():
            with contextlib.suppress(Unreachable):
                await link.send("PING")  # a half-open connection is silent for ever; the link's deadline cuts it
            await asyncio.wait((lost,), timeout=PING_EVERY_S)

    def _tell(self, subscription: Subscription, message: bytes) -> None:
        try:
            subscription.listener(message)
        except Exception as error:
            self._telemetry.emit(StepFailed(f"listener of {subscription.channel}", f"{type(error).__name__}: {error}"))

    def _pushed(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1]
        subscriptions = tuple(self._by_channel.get(channel, ()))
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
        elif kind == b"sunsubscribe" and subscriptions and self._link is not None:
            self._link.write("SSUBSCRIBE", channel)
