"""The ``Bridge``: all that most users import."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from bridge import survey
from bridge.channels import Channel, Channels, Progress
from bridge.config import BridgeSettings
from bridge.connection import START_TIMEOUT_S, Redis
from bridge.dead_letters import DeadLetters
from bridge.embedded import EmbeddedServer
from bridge.envelope import Position, Publication, decode_publication
from bridge.errors import Invalid, NotFound, Unreachable
from bridge.inspector import Inspector, NodeInfo, PendingEntry, ShardInfo
from bridge.keys import Keys
from bridge.node import SCRIPTS as NODE_SCRIPTS
from bridge.node import Node, Stats
from bridge.outcomes import Outcomes
from bridge.process import host_name
from bridge.publisher import Publisher, Receipt
from bridge.reads import state_reader
from bridge.receipts import Receipts
from bridge.record import Outcome
from bridge.registry import Registry, default
from bridge.replay import Replay
from bridge.replicated import Replicated
from bridge.scripts import script
from bridge.self_check import SelfCheck
from bridge.shard_stream import SCRIPTS as STREAM_SCRIPTS
from bridge.shard_stream import ShardStream
from bridge.shards import shard_of
from bridge.subscriptions import Subscriptions
from bridge.surviving import Surviving
from bridge.telemetry import Telemetry

_SCRIPTS = (
    *STREAM_SCRIPTS,
    *NODE_SCRIPTS,
    *survey.SCRIPTS,
    script("broadcast"),
    script("read_state"),
    script("receipts"),
    script("replicas"),
    script("touch"),
)
_SUBSCRIBER_QUEUE = 1000  # publications; beyond it they are read from the log again
_WAIT_SHARE = 0.4  # of a call's time, for replicas: one batch may have to wait for the one before
_LOG_AGAIN_S = 0.1  # after a log could not be read
_LOOK_EVERY_S = 1.0  # where a channel is, if it seems to be silent


class Bridge:
    """Commands, outcomes, broadcasts and nodes of one namespace, over one shared connection.

    Made by ``connect``; everything raises Unreachable while Redis is away and works again by itself.
    """

    def __init__(
        self,
        settings: BridgeSettings,
        redis: Redis,
        subscriptions: Subscriptions,
        registry: Registry,
        telemetry: Telemetry,
        self_check: SelfCheck,
        streams: Sequence[ShardStream],
        replay: Replay | None,
        surviving: Surviving,
    ) -> None:
        self.settings, self.redis, self.subscriptions = settings, redis, subscriptions
        self.self_check = self_check
        self.registry, self.telemetry = registry, telemetry
        self.shards = settings.shards
        self.keys = Keys(settings.namespace)
        self.channels = Channels(redis, self.keys, settings)
        self.inspector = Inspector(redis, self.keys, self.shards, dead_after_s=settings.lease_seconds)
        self.streams = streams
        self.outcomes = Outcomes(self.inspector, self.keys, self.shards, subscriptions, surviving)
        self.replay = replay  # None: no journal
        self.publisher = Publisher(self.streams, registry, self.inspector, replay)
        self.receipts = Receipts(redis, self.keys, settings)
        self.dead = DeadLetters(redis, self.keys, self.streams, registry, replay)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        where: str | BridgeSettings,
        *,
        registry: Registry = default,
        telemetry: Telemetry | None = None,
        timeout: float = 1.0,
        publishes: bool = True,
        **settings: Any,
    ) -> AsyncIterator[Self]:
        """Connect by URL (further settings by name) or by settings; checks the server first.

        ``timeout``: seconds after which a call that Redis does not answer raises Unreachable; a lone server has ten for
        the first connection. ``publishes``: whether
        this process accepts commands, which the self-check then wants to outlive a fail-over.
        Raises Misconfigured with the remedy, Unreachable.
        """
        config = where if isinstance(where, BridgeSettings) else BridgeSettings(redis_url=SecretStr(where), **settings)
        telemetry = telemetry or Telemetry()
        async with contextlib.AsyncExitStack() as stack:
            url = await _server_url(config.redis_url.get_secret_value(), stack)
            try:
                redis = await Redis.connect(
                    url, telemetry=telemetry, timeout=timeout, scripts=_SCRIPTS, patience_s=START_TIMEOUT_S
                )
            except Unreachable as error:
                setting = "BRIDGE_REDIS_URL" if isinstance(where, BridgeSettings) else "its URL"
                raise Unreachable(f"Redis does not answer: {error}; is {setting} right?") from None
            stack.push_async_callback(redis.close)
            check = SelfCheck(redis, Keys(config.namespace), config, telemetry, publishes=publishes)
            await check.start()
            stack.push_async_callback(_end, asyncio.create_task(check.run(), name="self-check"))
            subscriptions = Subscriptions(redis, telemetry=telemetry)
            receiving = asyncio.create_task(subscriptions.run(), name="subscriptions")
            stack.push_async_callback(_end, receiving)
            keys = Keys(config.namespace)
            second = partial(Redis.connect, url, timeout=timeout, scripts=_SCRIPTS)
            replicated = None
            if config.wait_replicas:
                replicated = Replicated(second, config.wait_replicas, timeout * _WAIT_SHARE)
                stack.push_async_callback(replicated.close)
            surviving = Surviving(redis, keys, Replicated(second, 1, timeout * _WAIT_SHARE))
            stack.push_async_callback(surviving.close)
            streams = [ShardStream(redis, keys, shard, config, replicated) for shard in range(config.shards)]
            replay = None
            if config.journal is not None:
                running = Replay.running(config.journal, redis, keys, streams, config, telemetry)
                replay = await stack.enter_async_context(running)
            bridge = cls(config, redis, subscriptions, registry, telemetry, check, streams, replay, surviving)
            stack.push_async_callback(bridge.outcomes.close)
            yield bridge

    def shard_of(self, subject: str) -> int:
        return shard_of(subject, self.shards)

    async def publish(
        self,
        type: str,
        subject: str,
        payload: Mapping[str, Any],
        *,
        by: str,
        idempotency_key: str | None = None,
        reason: str | None = None,
        expires_in: float | None = None,
        deliver_at: float | None = None,
    ) -> Receipt:
        """Accept one command; see ``Publisher.publish``."""
        return await self.publisher.publish(
            type, subject, payload, by=by, idempotency_key=idempotency_key, reason=reason, expires_in=expires_in,
            deliver_at=deliver_at,
        )  # fmt: skip

    async def outcome(self, id: str, *, wait: float = 0) -> Outcome | None:
        """Where a command stands; see ``Outcomes.get``."""
        return await self.outcomes.get(id, wait=wait)

    async def cancel(self, id: str, *, by: str) -> Outcome:
        """End a command that no node has read yet. Raises NotFound, Conflict."""
        await self.publisher.cancel(id, by=by)
        outcome = await self.outcomes.get(id)
        if outcome is None:
            raise NotFound(f"no command {id}")
        return outcome

    async def broadcast(self, type: str, scope: str, payload: Mapping[str, Any]) -> tuple[str, Position]:
        """Tell ``all`` nodes, or those with members in ``room:ID``; the channel's name and the publication's place."""
        if scope == "all":
            channel, data = Channel.control(0), dict(payload)
        elif scope.startswith("room:"):
            channel, data = Channel.control(self.shard_of(scope)), {**payload, "room": scope.removeprefix("room:")}
        else:
            raise Invalid(f"scope {scope!r}: write all or room:ID", path="/scope")
        return channel.name, await self.channels.publish(channel, type, data)

    async def subscribe(self, channel: str, since: Position | None = None) -> AsyncIterator[Publication]:
        """A subject's publications in order, each once: from ``since`` on (None = from now), then as they come.

        The log is the truth and pub/sub the wake-up, so a dropped connection loses nothing that the log still
        has. Where it lacks something, or the channel's history was lost, offsets jump or the epoch changes.
        """
        place = Channel.of_subject(channel, self.shards)
        queue: asyncio.Queue[Publication | None] = asyncio.Queue(_SUBSCRIBER_QUEUE)

        def put(publication: Publication | None) -> None:
            if queue.full():
                queue.get_nowait()  # a jump follows, which is filled from the log
            queue.put_nowait(publication)

        subscription = await self.subscriptions.subscribe(
            self.keys.channel(place.shard, place.name),
            lambda message: put(decode_publication(message)),
            on_gap=lambda: put(None),
        )
        try:
            progress = Progress(since or await self.channels.position(place))
            put(None)
            while True:
                publication = await _next(queue)
                if publication is not None and progress.follows(publication):
                    yield publication
                elif publication is None or not progress.knows(publication):
                    for each in await self._missed(place, progress):
                        yield each
        finally:
            self.subscriptions.unsubscribe(subscription)

    async def position(self, channel: str) -> Position | None:
        """The place of a subject's last publication; None: there was none. Raises Unreachable."""
        return await self.channels.position(Channel.of_subject(channel, self.shards))

    async def _missed(self, place: Channel, progress: Progress) -> list[Publication]:
        """What the log has for it; tries again as long as Redis is away."""
        while True:
            try:
                last = await self.channels.position(place)
                if progress.reaches(last):
                    return []
                return progress.missed(await self.channels.log(place, after=progress.looks_after(last)), last)
            except Unreachable:
                await asyncio.sleep(_LOG_AGAIN_S)

    async def nodes(self) -> list[NodeInfo]:
        """Every node that was heard of within the last hour, by name."""
        return await self.inspector.nodes()

    async def shard_infos(self) -> list[ShardInfo]:
        return await self.inspector.shards()

    async def pending(self, shard: int, limit: int = 100) -> list[PendingEntry]:
        """What a shard's holder has read and not ended, oldest first. Raises NotFound."""
        if not 0 <= shard < self.shards:
            raise NotFound(f"no shard {shard}: there are {self.shards}")
        return (await self.inspector.pending(shard, limit)).entries

    async def drain(self, node: str, on: bool, *, by: str = "operator") -> None:
        """Ask a node to hand its shards and clients over, or to take part again. Raises NotFound."""
        if node not in {info.name for info in await self.inspector.nodes(with_lag=False)}:
            raise NotFound(f"no node {node!r}")
        if on:
            await self.redis.call("HSET", self.keys.draining, node, by)
        else:
            await self.redis.call("HDEL", self.keys.draining, node)
        await self.redis.call("SPUBLISH", self.keys.node_channel(node), "look")

    async def serve(
        self,
        node: str | None = None,
        *,
        url: str = "",
        stats: Stats = dict,
        draining: asyncio.Event | None = None,
        drain_s: float = 20.0,
    ) -> None:
        """Join the group as ``node`` and handle commands until cancelled; then drain, settle and hand over.

        None: named after this machine and process, and unlike any other.
        ``stats`` tells sessions and rooms for the lists; ``draining`` is set while operators ask this node to drain.
        Raises NameTaken where a live node has the name.
        """
        stopping = asyncio.Event()
        member = Node(
            f"{host_name()[:45]}-{os.getpid()}-{secrets.token_hex(2)}" if node is None else node,
            url=url,
            redis=self.redis,
            keys=self.keys,
            streams=self.streams,
            subscriptions=self.subscriptions,
            registry=self.registry,
            reader=state_reader(self.redis, self.keys, self.channels, self.shards),
            settings=self.settings,
            telemetry=self.telemetry,
            stats=stats,
            draining=draining or asyncio.Event(),
        )
        life = asyncio.create_task(member.run(stopping, drain_s=drain_s), name=f"node-{node}")
        try:
            await asyncio.shield(life)
        except asyncio.CancelledError:
            stopping.set()
            try:
                await asyncio.wait((life,))
            finally:  # cancelled again: no time for good order
                life.cancel()
                await asyncio.gather(life, return_exceptions=True)
            raise

    async def ping(self) -> None:
        """Raises Unreachable."""
        await self.redis.each("PING")


async def examine(config: BridgeSettings) -> SelfCheck:
    """One look of the self-check at servers that ``connect`` may refuse. Raises Unreachable, Misconfigured."""
    async with contextlib.AsyncExitStack() as stack:
        url = await _server_url(config.redis_url.get_secret_value(), stack)
        redis = await Redis.connect(url, scripts=_SCRIPTS, patience_s=START_TIMEOUT_S)
        stack.push_async_callback(redis.close)
        check = SelfCheck(redis, Keys(config.namespace), config, Telemetry(), publishes=False)
        await check.step()
        return check


async def _server_url(url: str, stack: contextlib.AsyncExitStack) -> str:
    if not url.startswith("embedded://"):
        return url
    server = await EmbeddedServer.start(Path(url.removeprefix("embedded://")))
    stack.push_async_callback(server.stop)
    return server.url


async def _next(queue: asyncio.Queue[Publication | None]) -> Publication | None:
    """None after a gap, and after a silence: what was lost on its way without a sign would never be missed."""
    if not queue.empty():
        return queue.get_nowait()
    try:
        async with asyncio.timeout(_LOOK_EVERY_S):
            return await queue.get()
    except TimeoutError:
        return None


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
