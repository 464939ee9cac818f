"""Events that roles emit. Logs, metrics, alarms and tests listen; a listener changes no outcome."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

Listener = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Connected:
    server: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    server: str
    cause: str


@dataclass(frozen=True, slots=True)
class PlacementChanged:
    """Keys have other primaries than before: a fail-over, or slots that moved."""

    primaries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    node: str
    boot: str


@dataclass(frozen=True, slots=True)
class MembersChanged:
    node: str
    live: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vanished:
    """A node's subscription dropped and it is silent: its process was killed. Its leases are not waited for."""

    node: str  # that misses it
    who: str


@dataclass(frozen=True, slots=True)
class Acquired:
    node: str
    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Released:
    node: str
    shard: int


@dataclass(frozen=True, slots=True)
class LostLease:
    """A call about the shard failed: it was fenced, or nobody knows what the server did."""

    node: str
    shard: int
    cause: str
    regained: bool  # under a new epoch; False: somebody else holds it


@dataclass(frozen=True, slots=True)
class Claimed:
    node: str
    shard: int
    entries: int  # taken over from whoever held them before


@dataclass(frozen=True, slots=True)
class Read:
    by: str
    shard: int
    entries: int


@dataclass(frozen=True, slots=True)
class Started:
    """A handler begins."""

    by: str
    id: str
    type: str
    subject: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A command ended; its effects, if any, are in Redis."""

    by: str
    id: str
    type: str
    subject: str
    state: str  # done, rejected, expired or dead
    waited_s: float  # from accepted to the start of the last attempt
    handled_s: float  # in the handler, last attempt


@dataclass(frozen=True, slots=True)
class Retried:
    by: str
    id: str
    type: str
    attempt: int
    after_s: float
    cause: str


@dataclass(frozen=True, slots=True)
class Buried:
    by: str
    id: str
    type: str
    code: str
    cause: str


@dataclass(frozen=True, slots=True)
class DeadLettersDropped:
    """The dead letters of a shard were at their limit; the oldest made room."""

    shard: int
    dropped: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A periodic step raised; it runs again."""

    name: str
    cause: str


@dataclass(frozen=True, slots=True)
class Resubscribed:
    """The subscription connection is up again; publications may have been missed meanwhile."""

    channels: int


@dataclass(frozen=True, slots=True)
class FaultFound:
    """The self-check found something that it had not found before."""

    severity: str  # refuse, warn or unknown
    code: str
    message: str
    remedy: str
    server: str | None


@dataclass(frozen=True, slots=True)
class FaultCleared:
    """The self-check does not find it any more."""

    severity: str
    code: str
    server: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A publisher has put back on a server what that one lacked."""

    shard: int
    incarnation: str
    rows: int  # of the journal that were looked up
    put_back: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Superseded:
    """A command that a server had lost could not be put back, since its subject has had later ones: a dead letter."""

    shard: int
    id: str
    subject: str


@dataclass(frozen=True, slots=True)
class NotReplayed:
    """An operation of the journal could not be done again; an operator should look."""

    shard: int
    operation: str
    id: str
    cause: str


@dataclass(frozen=True, slots=True)
class JournalSetAside:
    """Redis was emptied, or is another installation's than before; the journal's rows are not put back there."""

    path: str
    rows: int
    installation: str  # that commands go to now, with a journal of its own


class Telemetry:
    """Fan-out of events to listeners, each on one background thread of its own.

    ``emit`` only queues: a listener that raises is logged, one that blocks holds up
    nobody but itself; past 10,000 waiting events its oldest are dropped and counted.
    ``listen(..., inline=True)`` calls the listener in ``emit`` itself, for tests and
    counters that are known to be quick; it must not block.
    """

    def __init__(self) -> None:
        self._inline: list[Listener] = []
        self._threads: list[_ListenerThread] = []

    def listen(self, listener: Listener, *, inline: bool = False) -> Callable[[], None]:
        """Call ``listener`` with every event from now on; returns the function that ends it."""
        if inline:
            self._inline.append(listener)
            return lambda: self._inline.remove(listener)
        thread = _ListenerThread(listener)
        self._threads.append(thread)

        def stop() -> None:
            self._threads.remove(thread)
            thread.stop()

        return stop

    @property
    def active(self) -> bool:
        """Whether anybody listens; hot paths skip building events otherwise."""
        return bool(self._inline or self._threads)

    def emit(self, event: object) -> None:
        """Tell every listener. Never raises, never blocks."""
        for listener in tuple(self._inline):
            _call(listener, event)
        for thread in self._threads:
            thread.put(event)


def _call(listener: Listener, event: object) -> None:
    try:
        listener(event)
    except Exception:
        log.exception("telemetry listener %r failed on %r", listener, event)


class _ListenerThread:
    def __init__(self, listener: Listener) -> None:
        self.dropped = 0
        self._listener = listener
        self._events: queue.Queue[object] = queue.Queue(maxsize=10_000)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name=f"telemetry-{id(listener):x}", daemon=True).start()

    def put(self, event: object) -> None:
        while True:
            try:
                return self._events.put_nowait(event)
            except queue.Full:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            self._events.get_nowait()
            self.dropped += 1
        except queue.Empty:
            pass

    def stop(self) -> None:
        self._stopped.set()
        self.put(None)

    def _run(self) -> None:
        while True:
            event = self._events.get()
            if self._stopped.is_set():
                return
            _call(self._listener, event)
