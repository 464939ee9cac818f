"""Publish on channels and read their logs. Receiving is `subscriptions`."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import orjson

from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.envelope import BadEntry, Position, Publication, decode_publication
from bridge.keys import Keys
from bridge.scripts import script
from bridge.shard_stream import log_length
from bridge.shards import shard_of

log = logging.getLogger(__name__)

CONTROL = "control"
_EPOCHS = 16  # that a reader remembers


@dataclass(frozen=True, slots=True)
class Channel:
    """A broadcast stream: of one subject (its name is the subject's), or of a whole shard (``control``)."""

    shard: int
    name: str

    @classmethod
    def of_subject(cls, subject: str, shards: int) -> Self:
        return cls(shard_of(subject, shards), subject)

    @classmethod
    def control(cls, shard: int) -> Self:
        return cls(shard, CONTROL)


class Progress:
    """What one reader of a channel has had, so that it gets everything the log has, once and in order.

    A fail-over may take back the last publications: the log then goes on in a new epoch from
    an offset that was seen before. The epochs it has been in are remembered for that.
    """

    def __init__(self, at: Position | None) -> None:
        self._had = {at.epoch: at.offset} if at is not None else {}
        self._epoch = at.epoch if at is not None else ""

    def follows(self, publication: Publication) -> bool:
        """Whether it is the next one; it counts as had then."""
        if publication.epoch != self._epoch or publication.offset != self._had[self._epoch] + 1:
            return False
        self._had[self._epoch] = publication.offset
        return True

    def knows(self, publication: Publication) -> bool:
        """Whether it was had before."""
        return publication.offset <= self._had.get(publication.epoch, -1)

    def reaches(self, last: Position | None) -> bool:
        """Whether everything up to there was had; ``last`` is the channel's place now."""
        return last is None or (last.epoch == self._epoch and last.offset <= self._had[self._epoch])

    def looks_after(self, last: Position | None) -> int:
        """The offset from which on the log has to be read; ``last`` is the channel's place now."""
        return self._had[self._epoch] if last is not None and last.epoch == self._epoch else 0

    def missed(self, log: Sequence[Publication], last: Position | None) -> list[Publication]:
        """What of the log is new, oldest first; it counts as had then."""
        known = [index for index, each in enumerate(log) if self.knows(each)]
        if known:
            news = list(log[known[-1] + 1 :])
        elif self._had and last is not None:
            # Nothing of what was had is left. What is older than this epoch may be older than this reader.
            news = [each for each in log if each.epoch == last.epoch]
        else:
            news = list(log)
        for each in news:
            self._had.pop(each.epoch, None)
            self._had[each.epoch] = each.offset
            self._epoch = each.epoch
        for epoch in list(self._had)[:-_EPOCHS]:
            del self._had[epoch]
        return news


class Channels:
    """The publishing and reading side of every channel."""

    def __init__(self, redis: Redis, keys: Keys, settings: BridgeSettings) -> None:
        self._redis, self._keys, self._settings = redis, keys, settings

    async def publish(self, channel: Channel, type: str, data: Mapping[str, Any]) -> Position:
        """Append to the log and send, in one script. Raises Unreachable, ServerFull."""
        epoch, offset = await self._redis.run(
            script("broadcast"),
            (self._keys.channel(channel.shard, channel.name), self._keys.log(channel.shard, channel.name)),
            (log_length(channel.name, self._settings), secrets.token_hex(8), channel.name, type, orjson.dumps(data)),
        )
        return Position(epoch.decode(), int(offset))

    async def position(self, channel: Channel) -> Position | None:
        """The last publication's place; None: there was none."""
        epoch, offset = await self._redis.call(
            "HMGET", self._keys.channel(channel.shard, channel.name), "epoch", "offset"
        )
        return None if epoch is None else Position(epoch.decode(), int(offset))

    async def log(
        self, channel: Channel, *, after: int = 0, before: int | None = None, limit: int | None = None
    ) -> list[Publication]:
        """Kept publications with offsets between ``after`` and ``before`` (both exclusive), oldest first.

        With ``limit`` the newest ones of these. What the cap dropped is not there: compare offsets.
        """
        key = self._keys.log(channel.shard, channel.name)
        last = "+" if before is None else f"({before}-0"
        if before is not None and before <= after + 1:
            return []
        count = () if limit is None else ("COUNT", limit)
        rows = await self._redis.call("XREVRANGE", key, last, f"({after}-0", *count)
        return decode_log(fields[1] for _, fields in reversed(rows))


def decode_log(messages: Iterable[bytes]) -> list[Publication]:
    """Publications in the order in which they stand; what somebody else has put between them is left out."""
    read: list[Publication] = []
    for message in messages:
        try:
            read.append(decode_publication(message))
        except BadEntry as error:
            _tell_once(message[:80], str(error))
    return read


@lru_cache(100)  # a log is read again and again
def _tell_once(message: bytes, why: str) -> None:
    log.warning("left out of a channel's log, as it is no publication: %r (%s)", message, why)
