"""What handlers may read: state and publications, as they are at this moment."""

from __future__ import annotations

from typing import Any

from bridge.channels import Channel, Channels
from bridge.connection import Redis
from bridge.envelope import StateReader, StateValue
from bridge.errors import StateUnavailable, Unreachable
from bridge.keys import Keys
from bridge.scripts import script
from bridge.shards import shard_of


def state_reader(redis: Redis, keys: Keys, channels: Channels, shards: int) -> StateReader:
    """The reads that handlers have."""

    async def read(subject: str, name: str) -> StateValue:
        key = keys.state(shard_of(subject, shards), subject, name)
        try:
            kind, value = await redis.run(script("read_state"), (key,), ())
        except Unreachable as error:
            raise StateUnavailable(str(error)) from error
        match kind:
            case b"none":
                return None
            case b"string":
                return str(value.decode())
            case b"hash":
                return _texts(value)
            case b"stream":
                return [_texts(fields) for _, fields in reversed(value)]
        return [member.decode() for member in value or ()]

    async def publications(subject: str) -> Any:
        try:
            return await channels.log(Channel.of_subject(subject, shards))
        except Unreachable as error:
            raise StateUnavailable(str(error)) from error

    return StateReader(read, publications)


def _texts(flat: list[bytes]) -> dict[str, str]:
    """Names and values in turn."""
    return dict(zip((name.decode() for name in flat[::2]), (value.decode() for value in flat[1::2]), strict=True))
