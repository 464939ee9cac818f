"""Publications that are in the log and were sent to nobody: as if they had been lost on their way."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from hashlib import sha1
from typing import Any

import orjson

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.envelope import Position
from bridge.scripts import Script, script

_source = script("broadcast").source.replace("redis.call('SPUBLISH', channel_key, message)", "")
_SCRIPT = Script("unsent", _source, sha1(_source.encode(), usedforsecurity=False).hexdigest())


async def publish_unsent(
    bridge: Bridge, channel: Channel, data: Mapping[str, Any], *, type: str = "message"
) -> Position:
    """Append to the log and do not send."""
    assert "SPUBLISH" not in _source
    keys = (bridge.keys.channel(channel.shard, channel.name), bridge.keys.log(channel.shard, channel.name))
    arguments = (1000, secrets.token_hex(8), channel.name, type, orjson.dumps(data))
    epoch, offset = await bridge.redis.run(_SCRIPT, keys, arguments)
    return Position(epoch.decode(), int(offset))
