"""The error tree. Errors carry facts and say the remedy; callers never parse text."""

from __future__ import annotations

from collections.abc import Sequence

MAX_RETRY_AFTER_S = 3600.0


class BridgeError(Exception):
    """Anything this library raises on purpose."""


class Misconfigured(BridgeError):
    """A setting is missing, impossible or contradicts what Redis holds; the text says the remedy."""


class Invalid(BridgeError):
    """A command or broadcast is not acceptable as it is; nothing was written."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path  # JSON pointer into the command, "" = the whole


class InvalidPayload(Invalid):
    """The payload does not fit its type's model. ``faults`` lists every fault: (JSON pointer, code, message)."""

    def __init__(self, type_: str, faults: Sequence[tuple[str, str, str]]) -> None:
        path, _, message = faults[0]
        super().__init__(f"payload of {type_}: {path or '/'}: {message}", path=path)
        self.faults = tuple(faults)


class UnknownType(Invalid):
    """No such command type here, or some live node does not know it yet."""

    def __init__(self, type_: str, *, nodes: Sequence[str] = ()) -> None:
        where = f"; not known on {', '.join(nodes)}: deploy nodes first" if nodes else ""
        super().__init__(f"unknown command type {type_!r}{where}", path="/type")
        self.type, self.nodes = type_, tuple(nodes)


class TooLarge(Invalid):
    """The entry is over the size limit."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes are over the limit of {limit}; shorten the payload or the reason")
        self.size, self.limit = size, limit


class IdempotencyMismatch(Invalid):
    """The key was used before by this caller on this subject, with another body."""

    def __init__(self, key: str, id: str) -> None:
        super().__init__(f"idempotency key {key!r} belongs to command {id} with another body; use a new key")
        self.key, self.id = key, id


class Overloaded(BridgeError):
    """The shard's backlog is over its limit; nothing was appended."""

    def __init__(self, backlog: int, limit: int, retry_after_s: float) -> None:
        super().__init__(f"backlog {backlog} is over {limit}; try again in {retry_after_s:g} s")
        self.backlog, self.limit, self.retry_after_s = backlog, limit, retry_after_s


class NotFound(BridgeError):
    """No such command, dead letter or node."""


class Conflict(BridgeError):
    """The command is past the point where this could be done."""


class Unreachable(BridgeError):
    """Redis did not answer. Whether the call took effect is unknown: repeat it with the same idempotency key."""


class NotTaken(Unreachable):
    """No server took the call: not connected, moving, loading. Nothing was done."""


class Replaying(NotTaken):
    """A server that may lack its last writes takes no new commands of the shard until publishers have put theirs back.

    At most 5 s; nothing was written.
    """

    def __init__(self, shard: int, retry_after_s: float) -> None:
        super().__init__(
            f"shard {shard} waits for commands that a fail-over may have lost; try again in {retry_after_s:g} s"
        )
        self.shard, self.retry_after_s = shard, retry_after_s


class OtherHistory(NotTaken):
    """The server is another one than the publisher has put its commands back on; nothing was written."""

    def __init__(self, incarnation: str) -> None:
        super().__init__(f"the server's incarnation is {incarnation}; commands are put back first")
        self.incarnation = incarnation


class NotRecorded(Unreachable):
    """Accepted, and not in the journal, so a fail-over may lose it. Repeat it with the same idempotency key."""


class NotReplicated(Unreachable):
    """Accepted, and fewer replicas than asked for have it so far. Repeat it with the same idempotency key."""

    def __init__(self, replicas: int, wanted: int) -> None:
        super().__init__(f"{replicas} of {wanted} replicas have confirmed it in time; repeat it with the same key")
        self.replicas, self.wanted = replicas, wanted


class StateUnavailable(Unreachable):
    """A handler's read of its subject's state was not answered. Not the handler's fault: it is run again."""


class ServerFull(BridgeError):
    """Redis is at ``maxmemory`` and refuses to store more; nothing was written."""


class ServerError(BridgeError):
    """Redis answered with an error that the bridge has no rule for."""


class NoGroup(ServerError):
    """The command stream or its consumer group is gone (FLUSHALL, DEL, a restart without AOF)."""


class Fenced(BridgeError):
    """The lease of the shard is not ours any more; nothing was changed."""


class NameTaken(Misconfigured):
    """Another live node has this name."""


class Rejected(Exception):
    """Raised by a handler: the command ends as ``rejected`` with this reason. Not an error of the bridge."""


class Retry(Exception):
    """Raised by a handler: try again in ``after_s`` seconds (0 to 3,600; None = the usual backoff)."""

    def __init__(self, after_s: float | None = None) -> None:
        if after_s is not None and not 0 <= after_s <= MAX_RETRY_AFTER_S:
            raise ValueError(f"Retry({after_s!r}): a number of seconds, at most {MAX_RETRY_AFTER_S:g}")
        super().__init__("the handler asked for another try")
        self.after_s = after_s
