"""What a handler asks for. Nothing is written here: one settle script makes it happen together with the ack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from bridge.errors import BridgeError
from bridge.keys import RESERVED

MAX_ARGUMENTS = 1000  # of one command's effects together; Lua's unpack and the script's time are the reason
MAX_BYTES = 1 << 20  # of one command's effects together
MAX_SECONDS = 10_000_000_000  # that a value lives; beyond some such figure the server refuses it


class BadEffects(BridgeError):
    """Effects that cannot be applied as they are; the command becomes a dead letter ``effects_failed``."""


@dataclass(frozen=True, slots=True)
class Write:
    """One Redis write on a key of the subject, or of its shard."""

    operation: str  # SET DEL HSET HDEL HINCRBY INCR ZADD ZREM XADD
    name: str
    arguments: tuple[bytes, ...]  # as they follow the key
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Broadcast:
    """One publication. ``channel`` None is the subject's own channel."""

    channel: str | None
    type: str
    data: bytes  # JSON
    names_command: bool = False  # nodes that hear of it on the control channel say how many sessions it touched


_TYPE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_NAME = re.compile(r"[^\ud800-\udfff]+", re.DOTALL)  # surrogates alone are no text
_CHANNEL = re.compile(r"[A-Za-z0-9._:@+-]{1,100}", re.ASCII)

Value = str | bytes | int | float | Mapping[str, Any] | list[Any] | None


class Effects:
    """State writes, broadcasts and a result, gathered in the order they are to happen.

    Names are relative to the command's subject (``muted:u7`` of ``room:lobby``). With
    ``shared=True`` the name belongs to the whole shard instead, for indexes. Strings,
    bytes and numbers are stored as they are, mappings and lists as JSON. Every method
    returns the object itself. Raises BadEffects at once where a value cannot be stored.
    """

    __slots__ = ("broadcasts", "facts", "writes", "_arguments", "_bytes")

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.broadcasts: list[Broadcast] = []
        self.facts: dict[str, Any] = {}
        self._arguments = 0
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes of all values together."""
        return self._bytes

    def set(self, name: str, value: Value, seconds: float | None = None, *, shared: bool = False) -> Self:
        """Store ``value``, for ``seconds`` (None = for good; less than a millisecond = delete)."""
        if seconds is None:
            return self._write("SET", name, (_stored(value),), shared)
        if seconds < 0.001:
            return self.delete(name, shared=shared)
        if not seconds <= MAX_SECONDS:
            raise BadEffects(f"set {name}: {seconds} seconds are over {MAX_SECONDS}; None means for good")
        return self._write("SET", name, (_stored(value), b"PX", b"%d" % int(seconds * 1000)), shared)

    def delete(self, name: str, *, shared: bool = False) -> Self:
        return self._write("DEL", name, (), shared)

    def hset(self, name: str, field: str, value: Value, *, shared: bool = False) -> Self:
        return self._write("HSET", name, (field.encode(), _stored(value)), shared)

    def hdel(self, name: str, *fields: str, shared: bool = False) -> Self:
        return self._write("HDEL", name, tuple(f.encode() for f in fields), shared) if fields else self

    def hincrby(self, name: str, field: str, by: int = 1, *, shared: bool = False) -> Self:
        """Add to an integer field (signed 64 bit; a target that is not an integer makes a dead letter)."""
        return self._write("HINCRBY", name, (field.encode(), _integer(by)), shared)

    def incr(self, name: str, by: int = 1, *, shared: bool = False) -> Self:
        return self._write("INCRBY", name, (_integer(by),), shared)

    def zadd(self, name: str, member: str, score: float, *, shared: bool = False) -> Self:
        if score != score:
            raise BadEffects(f"zadd {name}: a score cannot be NaN")
        return self._write("ZADD", name, (repr(float(score)).encode(), member.encode()), shared)

    def zrem(self, name: str, *members: str, shared: bool = False) -> Self:
        return self._write("ZREM", name, tuple(m.encode() for m in members), shared) if members else self

    def xadd(self, name: str, fields: Mapping[str, Value], maxlen: int, *, shared: bool = False) -> Self:
        """Append to a stream capped at about ``maxlen`` entries."""
        if not fields or maxlen < 0:
            raise BadEffects(f"xadd {name}: an entry needs at least one field, and maxlen {maxlen} cannot be negative")
        flat = [part for f, v in fields.items() for part in (f.encode(), _stored(v))]
        return self._write("XADD", name, (b"MAXLEN", b"~", b"%d" % maxlen, b"*", *flat), shared)

    def publish(self, type: str, data: Mapping[str, Any], channel: str | None = None) -> Self:
        """Broadcast on the subject's own channel, or on ``channel`` of its shard (``control``).

        With a ``command_id`` in it, nodes that apply it there write receipts for that command.
        """
        if not _TYPE.fullmatch(type) or (channel is not None and not _CHANNEL.fullmatch(channel)):
            raise BadEffects(f"publish {type!r} on {channel!r}: letters, digits and . _ - only (: @ + in a channel)")
        encoded = _json(data)
        self._count(4, len(encoded), f"publish {type}")
        self.broadcasts.append(Broadcast(channel, type, encoded, "command_id" in data))
        return self

    def result(self, **facts: Any) -> Self:
        """What the operator reads as the command's ``result``; must be JSON."""
        self.facts.update(facts)
        self._count(0, len(_json(self.facts)), "result")
        return self

    def _write(self, operation: str, name: str, arguments: tuple[bytes, ...], shared: bool) -> Self:
        if not _NAME.fullmatch(name) or (shared and name.partition(":")[0] in RESERVED):
            raise BadEffects(f"{operation.lower()} {name!r}: the name is empty, no text, or belongs to the bridge")
        self._count(3 + len(arguments), sum(map(len, arguments)), f"{operation.lower()} {name}")
        self.writes.append(Write(operation, name, arguments, shared))
        return self

    def _count(self, arguments: int, size: int, what: str) -> None:
        self._arguments += arguments
        self._bytes += size
        if self._arguments > MAX_ARGUMENTS or self._bytes > MAX_BYTES:
            raise BadEffects(
                f"{what}: a command's effects may have {MAX_ARGUMENTS} arguments and {MAX_BYTES} bytes; "
                f"these have {self._arguments} and {self._bytes}"
            )


def _stored(value: Value) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case bool() | None:
            return _json(value)
        case int():
            return b"%d" % value
        case float():
            return repr(value).encode()
        case _:
            return _json(value)


def _integer(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 63:
        raise BadEffects(f"{value} does not fit into 64 bits")
    return b"%d" % value


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise BadEffects(f"not JSON: {error}") from error
