"""What servers tell of themselves: facts for `findings` to judge. Nothing here changes anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from bridge.connection import Redis
from bridge.errors import BridgeError, Misconfigured, Unreachable
from bridge.findings import GroupFacts, ServerFacts
from bridge.keys import GROUP, Keys
from bridge.link import Link
from bridge.scripts import Script, script
from bridge.sentinel import Sentinel, Watch
from bridge.topology import Cluster

SCRIPTS: tuple[Script, ...] = (script("permitted"), script("group_facts"))
_SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync", "client-output-buffer-limit", "min-replicas-to-write",
             "cluster-node-timeout")  # fmt: skip
_LAGS_S = 10  # a replica that has not reported for so long does not count as following (min-replicas-max-lag)

# One sample call of each command that scripts and processes make, and of the kinds of keys and channels that there are.
# {k} is a key of a shard and {c} its channel, {n} and {b} the same of the nodes, {m} the settings that all share.
_CALLS = (
    "DEL {k}", "EVAL x 0", "EVALSHA x 0", "EXISTS {k}", "EXPIRE {k} 1", "GET {k}", "HDEL {k} f", "HEXISTS {k} f",
    "HGET {k} f", "HGETALL {k}", "HINCRBY {k} f 1", "HKEYS {k}", "HLEN {k}", "HMGET {k} f", "HSET {k} f v",
    "HSETNX {k} f v", "INCR {k}", "INCRBY {k} 1", "INFO replication", "LRANGE {k} 0 1", "PEXPIRE {k} 1", "PING",
    "PTTL {k}", "SCRIPT LOAD x", "SET {k} v", "SMEMBERS {k}", "SPUBLISH {c} m", "SSUBSCRIBE {c}", "SUNSUBSCRIBE {c}",
    "TIME", "TTL {k}", "TYPE {k}", "XACK {k} g 0-1", "XADD {k} * f v", "XCLAIM {k} g c 0 0-1", "XDEL {k} 0-1",
    "XGROUP CREATE {k} g 0", "XGROUP DELCONSUMER {k} g c", "XINFO CONSUMERS {k} g", "XINFO GROUPS {k}",
    "XINFO STREAM {k}", "XLEN {k}", "XPENDING {k} g", "XRANGE {k} - +", "XREADGROUP GROUP g c STREAMS {k} >",
    "XREVRANGE {k} + -", "ZADD {k} 1 m", "ZCARD {k}", "ZCOUNT {k} 0 1", "ZRANGE {k} 0 1", "ZRANGEBYSCORE {k} 0 1",
    "ZREM {k} m", "ZREMRANGEBYSCORE {k} 0 1", "ZSCORE {k} m",
    "ZMSCORE {n} m", "ZADD {n} 1 m", "PUBSUB SHARDNUMSUB {b}", "SSUBSCRIBE {b}", "HSETNX {m} f v", "WAIT 0 0",
)  # fmt: skip


async def servers(redis: Redis, keys: Keys) -> list[ServerFacts]:
    """Facts of each primary; of one that does not answer, that. Raises Unreachable where none does."""
    topology = redis.topology
    watches = await topology.watches(redis.timeout) if isinstance(topology, Sentinel) else None
    clustered = isinstance(topology, Cluster)

    async def ask(name: str, link: Link | None) -> ServerFacts:
        try:
            return ServerFacts(name, away=True) if link is None else await _server(name, link, keys, watches, clustered)
        except Unreachable:
            return ServerFacts(name, away=True)

    found = await asyncio.gather(*(ask(name, link) for name, link in redis.primaries.items()))
    if all(facts.away for facts in found):
        raise Unreachable("no primary answers")
    return found


async def groups(redis: Redis, keys: Keys, shards: int) -> list[GroupFacts]:
    """Facts of the consumer groups of those shards whose primary answers."""
    calls = (redis.run(script("group_facts"), (keys.commands(shard),), (GROUP,)) for shard in range(shards))
    found = []
    for shard, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
        if isinstance(answer, BaseException) and not isinstance(answer, Unreachable):
            raise answer
        if not isinstance(answer, BaseException):
            found.append(_group(shard, answer))
    return found


async def live_nodes(redis: Redis, keys: Keys, dead_after_s: float) -> int | None:
    """How many nodes have sent a heartbeat lately; None: their primary does not answer."""
    try:
        return await _live_nodes(redis, keys, dead_after_s)
    except Unreachable:
        return None


async def _live_nodes(redis: Redis, keys: Keys, dead_after_s: float) -> int:
    seconds, _ = await redis.call("TIME")
    return int(await redis.call("ZCOUNT", keys.live, (int(seconds) - dead_after_s) * 1000, "+inf"))


def _group(shard: int, answer: list[Any]) -> GroupFacts:
    consumers, idle_ms = answer
    return GroupFacts(shard, consumers, None if idle_ms < 0 else idle_ms / 1000)


async def _server(name: str, link: Link, keys: Keys, watches: list[Watch] | None, clustered: bool) -> ServerFacts:
    asked = time.time()
    answers = await asyncio.gather(
        _ask(link, "TIME"),
        _ask(link, "CONFIG", "GET", *_SETTINGS),
        _ask(link, "INFO", "memory", "persistence", "replication"),
        _ask(link, "CLUSTER", "NODES") if clustered else _nothing(),
        _lacking(link, keys),
    )
    told_time, config, info, cluster, missing = answers
    settings = {name.decode(): value.decode() for name, value in (config or {}).items()}
    facts = _facts(info)
    replication = {key: facts[key] for key in ("role", "connected_slaves") if key in facts}
    replicas = _replicas(cluster, watches, replication.get("connected_slaves"))
    if missing is not None and replicas == 0:  # nobody to wait for
        missing = tuple(name for name in missing if name != "WAIT")
    return ServerFacts(
        server=name,
        policy=settings.get("maxmemory-policy") or facts.get("maxmemory_policy"),
        appendonly=_yes(settings.get("appendonly")),
        appendfsync=settings.get("appendfsync"),
        pubsub_bytes=_pubsub_bytes(settings.get("client-output-buffer-limit")),
        min_replicas=_number(settings.get("min-replicas-to-write")),
        detection_s=_detection_s(settings, watches) if clustered or watches is not None else None,
        detects=clustered or watches is not None,
        primary=replication["role"] == "master" if "role" in replication else None,
        aof_written=facts["aof_last_write_status"] == "ok" if "aof_last_write_status" in facts else None,
        replicas=replicas,
        linked=sum(_follows(line) for key, line in facts.items() if key.startswith("slave") and "," in line)
        if replication
        else None,
        skew_s=_skew(asked, time.time(), told_time),
        missing=missing,
    )


async def _ask(link: Link, *arguments: str) -> Any:
    """None: it does not tell us."""
    try:
        return await link.send(*arguments)
    except Unreachable:
        raise
    except BridgeError:
        return None


async def _lacking(link: Link, keys: Keys) -> tuple[str, ...] | None:
    """Commands that it forbids or does not have, by name."""
    names = {"k": keys.commands(0), "c": keys.ring(0), "n": keys.live, "b": keys.node_channel("node"), "m": keys.meta}
    samples = [call.format_map(names) for call in _CALLS]
    try:
        lacking = await link.send_script(script("permitted"), (), samples)
    except Unreachable:
        raise
    except Misconfigured:  # NOPERM
        return ("EVALSHA",)
    except BridgeError:
        return None
    return tuple(dict.fromkeys(_name(sample.decode()) for sample in lacking))


def _name(sample: str) -> str:
    words = sample.split(" ")
    return " ".join(words[:2]) if words[0] in ("XGROUP", "XINFO", "SCRIPT", "PUBSUB") else words[0]


def _facts(info: bytes | str | None) -> dict[str, str]:
    text = info.decode() if isinstance(info, bytes) else info or ""
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)


def _yes(value: str | None) -> bool | None:
    return None if value is None else value == "yes"


def _number(value: str | None) -> int | None:
    return None if value is None else int(value)


def _pubsub_bytes(limits: str | None) -> int | None:
    """``normal 0 0 0 slave … pubsub HARD SOFT SECONDS``: the lower one that is set."""
    words = (limits or "").split(" ")
    if "pubsub" not in words:
        return None
    at = words.index("pubsub")
    return min((int(word) for word in words[at + 1 : at + 3] if int(word)), default=0)


def _detection_s(settings: Mapping[str, str], watches: list[Watch] | None) -> float | None:
    if watches is None:
        timeout_ms = _number(settings.get("cluster-node-timeout"))
        return None if timeout_ms is None else timeout_ms / 1000
    return min((watch.down_after_s for watch in watches), default=None)


def _replicas(cluster: bytes | str | None, watches: list[Watch] | None, connected: str | None) -> int | None:
    """As many as those know who remember the ones that are away; else as many as are connected."""
    if cluster is not None:
        rows = [row.split(" ") for row in (cluster.decode() if isinstance(cluster, bytes) else cluster).splitlines()]
        own = next((row[0] for row in rows if "myself" in row[2]), None)
        return sum(row[3] == own for row in rows)
    if watches:
        return max(watch.replicas for watch in watches)
    return _number(connected)


def _follows(line: str) -> bool:
    """``ip=…,port=…,state=online,offset=…,lag=0``"""
    told = dict(part.split("=", 1) for part in line.split(",") if "=" in part)
    return told.get("state") == "online" and int(told.get("lag", 0)) <= _LAGS_S


def _skew(before: float, after: float, told: list[bytes] | None) -> float | None:
    """Our clock minus theirs, as far as the way there and back cannot account for it."""
    if told is None:
        return None
    theirs = int(told[0]) + int(told[1]) / 1e6
    return before - theirs if before > theirs else min(0.0, after - theirs)


async def _nothing() -> None:
    return None
