"""Receiving publications over a connection that comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.connection import Redis
from bridge.errors import Invalid
from bridge.subscriptions import Subscriptions
from bridge.telemetry import Disconnected, Resubscribed, StepFailed, Telemetry
from tests.chatserver.unsent import publish_unsent
from tests.conformance.fleet import PATIENT_S, Fleet
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until


@contextlib.asynccontextmanager
async def running(url: str, telemetry: Telemetry, timeout: float = PATIENT_S) -> AsyncIterator[Subscriptions]:
    redis = await Redis.connect(url, telemetry=telemetry, timeout=timeout)
    subscriptions = Subscriptions(redis, telemetry=telemetry)
    task = asyncio.create_task(subscriptions.run())
    try:
        yield subscriptions
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await redis.close()


@pytest.fixture
async def subscriptions(proxy: Proxy, events: Recorder) -> AsyncIterator[Subscriptions]:
    async with running(proxy.url, events.telemetry) as subscriptions:
        yield subscriptions


async def test_a_listener_hears_messages_in_order(server: Server, subscriptions: Subscriptions) -> None:
    heard: list[bytes] = []
    await subscriptions.subscribe("c", heard.append)
    client = server.client()
    for i in range(100):
        await client.spublish("c", i)
    await until(lambda: len(heard) == 100)
    assert heard == [b"%d" % i for i in range(100)]


async def test_listeners_of_one_channel_share_its_subscription(server: Server, subscriptions: Subscriptions) -> None:
    one, other = list[bytes](), list[bytes]()
    first = await subscriptions.subscribe("c", one.append)
    await subscriptions.subscribe("c", other.append)
    client = server.client()
    await client.spublish("c", "1")
    await until(lambda: one and other)
    subscriptions.unsubscribe(first)
    await client.spublish("c", "2")
    await until(lambda: len(other) == 2)
    assert one == [b"1"]


async def test_the_last_listener_ends_the_subscription(server: Server, subscriptions: Subscriptions) -> None:
    subscription = await subscriptions.subscribe("c", lambda message: None)
    subscriptions.unsubscribe(subscription)
    subscriptions.unsubscribe(subscription)
    client = server.client()

    async def deaf() -> bool:
        return bool(await client.spublish("c", "1") == 0)

    await until(deaf)


async def test_a_dropped_connection_is_subscribed_again_and_tells_the_gap(
    server: Server, subscriptions: Subscriptions, proxy: Proxy
) -> None:
    heard, gaps = list[bytes](), list[int]()
    await subscriptions.subscribe("c", heard.append, on_gap=lambda: gaps.append(1))
    proxy.drop()
    await until(lambda: gaps)
    await server.client().spublish("c", "after")
    await until(lambda: heard)
    assert gaps == [1]


async def test_a_first_confirmation_is_no_gap(subscriptions: Subscriptions) -> None:
    gaps: list[int] = []
    await subscriptions.subscribe("c", lambda message: None, on_gap=lambda: gaps.append(1))
    assert gaps == []


async def test_a_subscription_the_server_ended_is_made_again(server: Server, subscriptions: Subscriptions) -> None:
    gaps: list[int] = []
    await subscriptions.subscribe("c", lambda message: None, on_gap=lambda: gaps.append(1))
    await server.client().client_kill_filter(_type="pubsub")
    await until(lambda: gaps)


async def test_a_connection_that_fell_silent_is_cut(proxy: Proxy, events: Recorder) -> None:
    async with running(proxy.url, events.telemetry, timeout=0.5) as subscriptions:
        gaps: list[int] = []
        await subscriptions.subscribe("c", lambda message: None, on_gap=lambda: gaps.append(1))
        proxy.black_hole()
        await until(lambda: not subscriptions.connected)
        proxy.heal()
        await until(lambda: gaps)


async def test_subscribing_waits_for_a_server_that_is_away(proxy: Proxy, events: Recorder) -> None:
    async with running(proxy.url, events.telemetry) as subscriptions:
        proxy.cut()
        waiting = asyncio.ensure_future(subscriptions.subscribe("c", lambda message: None))
        await events.wait_for(Disconnected)
        assert not waiting.done()
        proxy.heal()
        await asyncio.wait_for(waiting, 30)


async def test_who_gives_up_waiting_leaves_nothing(proxy: Proxy, events: Recorder) -> None:
    async with running(proxy.url, events.telemetry) as subscriptions:
        proxy.cut()
        waiting = asyncio.ensure_future(subscriptions.subscribe("c", lambda message: None))
        asyncio.get_running_loop().call_soon(waiting.cancel)
        await asyncio.wait((waiting,))
        proxy.heal()
        assert (await events.wait_for(Resubscribed)).channels == 0


async def test_a_listener_that_raises_is_reported_and_disturbs_no_other(
    server: Server, subscriptions: Subscriptions, events: Recorder
) -> None:
    def fail(message: bytes) -> None:
        raise ValueError("boom")

    heard: list[bytes] = []
    await subscriptions.subscribe("c", fail)
    await subscriptions.subscribe("c", heard.append)
    await server.client().spublish("c", "1")
    await until(lambda: heard)
    assert (await events.wait_for(StepFailed)).cause == "ValueError: boom"


async def test_broadcasts_are_numbered_by_channel(bridge: Bridge) -> None:
    places = [await bridge.broadcast("config.reload", scope, {}) for scope in ("all", "room:lobby", "all")]
    assert [(channel, place.offset) for channel, place in places] == [("control", 1), ("control", 2), ("control", 3)]


@pytest.mark.parametrize("scope", ["", "everyone", "user:u1"])
async def test_a_broadcast_to_nobody_is_refused(bridge: Bridge, scope: str) -> None:
    with pytest.raises(Invalid):
        await bridge.broadcast("config.reload", scope, {})


async def test_publications_come_in_order_over_a_dropped_connection(proxy: Proxy, fleet: Fleet, server: Server) -> None:
    there, here = await fleet.bridge(), await fleet.bridge(proxy.url)
    place = Channel.of_subject("room:lobby", 1)
    since = await there.channels.publish(place, "message", {"i": -1})
    got: list[int] = []
    enough = asyncio.Event()

    async def follow() -> None:
        async with contextlib.aclosing(here.subscribe("room:lobby", since)) as publications:  # type: ignore[type-var]
            async for publication in publications:
                got.append(publication.data["i"])
                if publication.data["i"] == 59:
                    enough.set()

    task = asyncio.create_task(follow())
    await _subscribed(server)
    for i in range(60):
        await there.channels.publish(place, "message", {"i": i})
        if i in (20, 40):
            proxy.drop()
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()
    await asyncio.wait((task,))
    assert got == list(range(60))


async def test_a_publication_lost_without_a_sign_comes_within_seconds(fleet: Fleet, server: Server) -> None:
    bridge = await fleet.bridge()
    place = Channel.of_subject("room:lobby", 1)
    since = await bridge.channels.publish(place, "message", {"text": "0"})
    async with contextlib.aclosing(bridge.subscribe("room:lobby", since)) as publications:  # type: ignore[type-var]
        waiting = asyncio.ensure_future(anext(publications))
        await _subscribed(server)
        await publish_unsent(bridge, place, {"text": "unsent"})
        assert (await asyncio.wait_for(waiting, 10)).data == {"text": "unsent"}


async def _subscribed(server: Server) -> None:
    client = server.client()

    async def confirmed() -> bool:
        answer = await client.pubsub_shardnumsub("chat:{0}:channel:room:lobby")
        return bool(answer[0][1])

    await until(confirmed)
