"""Commands and publications as values, and their form in Redis."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import orjson

from bridge.errors import BridgeError, Invalid, TooLarge

MAX_ENTRY_BYTES = 64 * 1024  # all field names and values of one stream entry
RESERVED_BYTES = 128  # of these, for what is added when the entry is accepted
MAX_DEPTH = 16  # nesting of a payload; orjson reads 1,024 levels, more than repr() stands
MAX_REASON_CHARS = 500
MAX_BY_CHARS = 100
MAX_EXPIRES_IN_S = 604_800
MAX_KEY_CHARS = 200
YEAR_10000 = 253_402_300_800_000  # ms since the epoch; calendars end before it

SUBJECT = re.compile(r"[a-z][a-z0-9_]{0,31}:[A-Za-z0-9._@+-]{1,64}", re.ASCII)
TYPE = re.compile(r"(?=.{1,64}$)[a-z][a-z0-9_]*(\.[a-z0-9_]+)+", re.ASCII)
COMMAND_ID = re.compile(r"(\d{1,5})-(\d{1,15})-(\d{1,19})", re.ASCII)
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", re.ASCII)

State = str  # scheduled accepted handling retrying done rejected expired dead cancelled
ENDED: frozenset[State] = frozenset({"done", "rejected", "expired", "dead", "cancelled"})

_TOLD = (b"type", b"subject", b"by", b"reason", b"origin")

P = TypeVar("P")
StateValue = str | dict[str, str] | list[str] | list[dict[str, str]] | None


class BadEntry(BridgeError):
    """A stream entry that cannot be read; it becomes a dead letter with ``code`` as its cause."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # undecodable, unknown_version or too_large


class Envelope(NamedTuple):
    """One command as it stands on its shard's stream."""

    # A tuple, as everything of which one is made per command: a frozen dataclass takes three times as long to make.

    id: str  # public id, "<shard>-<ms>-<seq>"
    entry_id: str  # its id on the stream; the public id's tail unless the entry was written again
    shard: int
    type: str
    subject: str
    payload: bytes  # JSON object
    by: str
    at: int  # ms since the epoch, the issuer's clock, informative
    reason: str | None = None
    expires: int | None = None  # ms since the epoch, the server's clock
    idem: str | None = None
    origin: str | None = None  # id of the command that this one repeats
    traceparent: str | None = None
    due: int | None = None  # ms since the epoch, the server's clock; of a command that was scheduled
    unless_done: str | None = None  # id of a command whose death was lost; nothing is to be done if that one is done

    @property
    def issued_at(self) -> int:
        """Ms since the epoch on the server's clock, from the id."""
        return int(self.id.split("-", 2)[1])

    @property
    def accepted_at(self) -> int:
        """When it came onto the stream, in ms; for most commands that is when it was issued."""
        return int(self.entry_id.split("-", 1)[0]) if self.due is not None and self.entry_id else self.issued_at

    def first_steps(self) -> list[Step]:
        """How every timeline begins."""
        if self.due is None:
            return [Step("accepted", self.accepted_at)]
        steps = [Step("scheduled", self.issued_at)]
        return [*steps, Step("accepted", self.accepted_at)] if self.entry_id else steps

    def fields(self) -> list[bytes]:
        """Names and values in turn, as XADD takes them; without an ``id``, which the stream gives.

        Raises TooLarge over 64 KiB.
        """
        flat = [b"v", b"1", b"type", self.type.encode(), b"subject", self.subject.encode(), b"payload", self.payload,
                b"by", self.by.encode(), b"at", b"%d" % self.at]  # fmt: skip
        for name, value in ((b"reason", self.reason), (b"idem", self.idem), (b"origin", self.origin),
                            (b"traceparent", self.traceparent)):  # fmt: skip
            if value is not None:
                flat += (name, value.encode())
        if self.expires is not None:
            flat += (b"expires", b"%d" % self.expires)
        size = sum(map(len, flat)) + RESERVED_BYTES
        if size > MAX_ENTRY_BYTES:
            raise TooLarge(size, MAX_ENTRY_BYTES)
        return flat


def decode(shard: int, entry_id: str, flat: Sequence[bytes]) -> Envelope:
    """Read one entry's fields (names and values in turn). Raises BadEntry with the cause."""
    if not flat:
        raise BadEntry("undecodable", "deleted from the stream while it was pending")
    if sum(map(len, flat)) > MAX_ENTRY_BYTES:
        raise BadEntry("too_large", f"{sum(map(len, flat))} bytes are over the limit of {MAX_ENTRY_BYTES}")
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    version = fields.get(b"v")
    if version != b"1":
        raise BadEntry("undecodable" if version is None else "unknown_version", f"schema version {version!r}, not b'1'")
    try:
        return Envelope(
            _public_id(shard, entry_id, fields.get(b"id")),
            entry_id,
            shard,
            _type(fields[b"type"]),
            _subject(fields[b"subject"]),
            fields[b"payload"],
            _by(fields[b"by"]),
            _milliseconds(b"at", fields[b"at"]),
            reason=_reason(fields.get(b"reason")),
            expires=_milliseconds(b"expires", fields[b"expires"]) if b"expires" in fields else None,
            idem=_matching_if_given(IDEMPOTENCY_KEY, "idem", fields),
            origin=_matching_if_given(COMMAND_ID, "origin", fields),
            traceparent=_text(fields, b"traceparent"),  # one that is malformed is no fault: W3C Trace Context, 4.2
            due=_milliseconds(b"due", fields[b"due"]) if b"due" in fields else None,
            unless_done=_matching_if_given(COMMAND_ID, "unless_done", fields),
        )
    except KeyError as error:
        raise BadEntry("undecodable", f"field {error.args[0].decode()!r} is missing") from None
    except ValueError as error:
        raise BadEntry("undecodable", str(error)) from None


def decode_or_stand_in(shard: int, entry_id: str, flat: Sequence[bytes]) -> tuple[Envelope, BadEntry | None]:
    """The entry; or what can be told of one that cannot be read, and why it cannot."""
    try:
        return decode(shard, entry_id, flat), None
    except BadEntry as error:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        type_, subject, by, reason, origin = (fields.get(name, b"").decode(errors="replace")[:500] for name in _TOLD)
        try:
            id = _public_id(shard, entry_id, fields.get(b"id"))
        except ValueError:
            id = f"{shard}-{entry_id}"
        told = Envelope(
            id,
            entry_id,
            shard,
            type_,
            subject,
            b"null",
            by,
            0,
            reason or None,
            origin=origin or None,
        )
        return told, error


def read_netstrings(data: bytes) -> tuple[bytes, ...]:
    """Bernstein 1997: ``5:hello,5:world,``."""
    values, at = [], 0
    while at < len(data):
        colon = data.index(b":", at)
        end = colon + 1 + int(data[at:colon])
        values.append(data[colon + 1 : end])
        at = end + 1
    return tuple(values)


def netstrings(values: Sequence[bytes]) -> bytes:
    """What ``read_netstrings`` reads."""
    return b"".join([b"%d:%b," % (len(value), value) for value in values])


def check_subject(subject: str, *, kind: str | None = None) -> None:
    """Raise Invalid unless ``subject`` is ``kind:id`` by the rules (and of this kind)."""
    if not SUBJECT.fullmatch(subject):
        raise Invalid(f"subject {subject!r}: write kind:id, id of 1-64 of A-Z a-z 0-9 . _ @ + -", path="/subject")
    if kind is not None and not subject.startswith(f"{kind}:"):
        raise Invalid(f"subject {subject!r}: this type is for {kind}:…", path="/subject")


def shard_of_id(id: str) -> int:
    """The shard that a command id names. Raises Invalid if it is no command id."""
    match = COMMAND_ID.fullmatch(id)
    if match is None or int(match[2]) >= YEAR_10000:
        raise Invalid(f"{id!r} is no command id; these look like 7-1795301838720-41")
    return int(match[1])


def _public_id(shard: int, entry_id: str, given: bytes | None) -> str:
    if given is None:
        return f"{shard}-{entry_id}"
    match = COMMAND_ID.fullmatch(given.decode())
    if match is None or int(match[1]) != shard or int(match[2]) >= YEAR_10000:
        raise ValueError(f"field 'id' {given!r} is no command id of shard {shard}")
    return match[0]


@lru_cache(1000)  # there are few types, and many commands of each
def _type(value: bytes) -> str:
    return _matching(TYPE, "type", value)


def _subject(value: bytes) -> str:
    return _matching(SUBJECT, "subject", value)


def _matching(pattern: re.Pattern[str], name: str, value: bytes) -> str:
    text = value.decode()
    if not pattern.fullmatch(text):
        raise ValueError(f"field {name!r} {text[:80]!r} breaks the naming rules")
    return text


def _matching_if_given(pattern: re.Pattern[str], name: str, fields: Mapping[bytes, bytes]) -> str | None:
    value = fields.get(name.encode())
    return None if value is None else _matching(pattern, name, value)


def _by(value: bytes) -> str:
    by = value.decode()
    if not 1 <= len(by) <= MAX_BY_CHARS:
        raise ValueError(f"field 'by' has {len(by)} characters, not 1-{MAX_BY_CHARS}")
    return by


def _reason(value: bytes | None) -> str | None:
    reason = None if value is None else value.decode()
    if reason is not None and len(reason) > MAX_REASON_CHARS:
        raise ValueError(f"field 'reason' has {len(reason)} characters; it may have {MAX_REASON_CHARS}")
    return reason


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode()


def _milliseconds(name: bytes, value: bytes) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not 0 <= number < YEAR_10000:
        raise ValueError(f"field {name.decode()!r} is no time in milliseconds: {value[:40]!r}")
    return number


@dataclass(frozen=True, slots=True)
class Command(Generic[P]):
    """One command, as a handler sees it."""

    id: str  # "<shard>-<ms>-<seq>"; the idempotency key for effects outside Redis
    type: str
    subject: str
    payload: P
    reason: str | None
    issued_by: str
    issued_at: float  # seconds since the epoch, when it was accepted
    attempt: int  # 1 on the first start; each retry or death adds one
    now: float  # seconds since the epoch, the server's clock
    reader: StateReader = field(repr=False, compare=False)

    @property
    def subject_id(self) -> str:
        """The part of the subject after its kind: ``lobby`` of ``room:lobby``."""
        return self.subject.partition(":")[2]

    async def read(self, name: str) -> StateValue:
        """The subject's state ``name``: str, dict (hash), list (list, set, sorted set by score) or None.

        A stream is the list of its entries' fields, oldest first, of no more than its last 1,000 entries.
        """
        return await self.reader.read(self.subject, name)

    async def publications(self) -> list[Publication]:
        """What the log of the subject's own channel holds, oldest first."""
        return await self.reader.publications(self.subject)


@dataclass(frozen=True, slots=True)
class StateReader:
    """The two reads that a handler has, bound to a connection."""

    read: Callable[[str, str], Awaitable[StateValue]]
    publications: Callable[[str], Awaitable[list[Publication]]]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a command's timeline."""

    state: State
    at: int  # ms since the epoch, the server's clock
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A place on a channel. Offsets of one epoch grow by one."""

    epoch: str  # opaque; a new one whenever the channel's history was or may have been lost
    offset: int


@dataclass(frozen=True, slots=True)
class Publication:
    """One message of a channel."""

    channel: str
    epoch: str
    offset: int
    type: str
    at: int  # ms since the epoch, the server's clock
    data: Any


def decode_publication(message: bytes) -> Publication:
    """Raises BadEntry if it is none."""
    try:
        record = orjson.loads(message)
        epoch, offset = record["epoch"], record["offset"]
        if not isinstance(epoch, str) or not isinstance(offset, int):
            raise ValueError(f"epoch {epoch!r} and offset {offset!r}")
        return Publication(record["channel"], epoch, offset, record["type"], record["at"], record["data"])
    except (ValueError, TypeError, KeyError) as error:
        raise BadEntry("undecodable", f"{type(error).__name__}: {error}") from None


def depth(value: Any) -> int:
    """How deep lists and objects nest; a scalar is 0."""
    deepest, level = 0, [value]
    while level:
        level = [v for x in level for v in (x.values() if isinstance(x, dict) else x if isinstance(x, list) else ())]
        deepest += 1
    return deepest - 1 if deepest else 0
