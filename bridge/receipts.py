"""How many sessions of each node a command touched: nodes write it, operators read it.

A command that tells the control channel of its shard is answered by every node that hears it, those
without a session of the user included, so that "nobody there" and "no answer" are not the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.keys import Keys
from bridge.record import Outcome
from bridge.scripts import script

BATCH: Final = 100  # receipts in one script call
# A node silent for longer counts as without sessions; one that was stopped or cut off a moment ago may still have some.
SILENT_MS: Final = 30_000
GRACE_S: Final = 0.3  # that live nodes have to answer, where somebody waits
_FIRST_LOOK_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Touched:
    """What one node said."""

    node: str
    sessions: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What the nodes said of one command."""

    receipts: tuple[Touched, ...] = ()  # by node
    missing: tuple[str, ...] = ()  # nodes that were there when the command ended, and have not answered
    pending: bool = False  # some of the missing are alive, so that their answer may be under way


@dataclass(frozen=True, slots=True)
class Presence:
    """One node, as its last heartbeat told. Times are ms on the server's clock."""

    node: str
    joined_at: int
    beat_at: int


class Receipts:
    """Every method raises Unreachable."""

    def __init__(self, redis: Redis, keys: Keys, settings: BridgeSettings) -> None:
        self._redis, self._keys, self._settings = redis, keys, settings

    async def write(self, node: str, shard: int, sessions: Mapping[str, int]) -> None:
        """Note for up to 100 commands of one shard how many sessions of ``node`` each touched; may be repeated."""
        keys = [self._keys.receipts(shard, id) for id in sessions]
        await self._redis.run(script("receipts"), keys, (node, self._settings.outcome_seconds, *sessions.values()))

    async def read(self, outcome: Outcome, *, grace_s: float = 0) -> Answers:
        """What was said of a command until now, or until ``grace_s`` later if live nodes have not answered yet.

        A dead node is named, never waited for. Empty while the command has not ended, and for one that
        told the control channel nothing.
        """
        if not outcome.control:
            return Answers()
        loop, pause = asyncio.get_running_loop(), _FIRST_LOOK_S
        deadline = loop.time() + grace_s
        while True:
            answers = await self._read(outcome)
            if not answers.pending or loop.time() + pause > deadline:
                return answers
            await asyncio.sleep(pause)
            pause *= 2

    async def _read(self, outcome: Outcome) -> Answers:
        k, call = self._keys, self._redis.call
        shard = int(outcome.id.split("-", 1)[0])
        said, beats, infos, (seconds, micros) = await asyncio.gather(
            call("HGETALL", k.receipts(shard, outcome.id)), call("ZRANGE", k.live, 0, -1, "WITHSCORES"),
            call("HGETALL", k.info), call("TIME"),
        )  # fmt: skip
        receipts = tuple(sorted((Touched(node.decode(), int(n)) for node, n in said.items()), key=lambda t: t.node))
        present = [_presence(name, int(beat), infos[name]) for name, beat in beats if name in infos]
        missing = missing_nodes(present, {touched.node for touched in receipts}, outcome.timeline[-1].at)
        alive_since = int(seconds) * 1000 + int(micros) // 1000 - int(self._settings.lease_seconds * 1000)
        pending = any(p.beat_at >= alive_since for p in present if p.node in missing)
        return Answers(receipts, missing, pending)


def missing_nodes(present: Sequence[Presence], answered: set[str], ended_at: int) -> tuple[str, ...]:
    """Who may have had sessions when a command ended, and has not said how many it touched. Pure."""
    return tuple(
        sorted(
            p.node
            for p in present
            if p.node not in answered and p.joined_at <= ended_at and p.beat_at >= ended_at - SILENT_MS
        )
    )


def _presence(name: bytes, beat_at: int, record: bytes) -> Presence:
    told: dict[str, Any] = orjson.loads(record.partition(b" ")[2])
    return Presence(name.decode(), told.get("joined_at", 0), beat_at)  # a node of another version may not tell
