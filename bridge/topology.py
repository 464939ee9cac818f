"""Where the primaries are: one server, or a cluster's slots; `sentinel` has the third way."""

from __future__ import annotations

import asyncio
import math
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from bridge.errors import BridgeError, Misconfigured, ServerError, Unreachable
from bridge.link import Endpoint, Link

SLOTS = 16384
BELIEVED_AFTER_S = 5.0  # an account of an older past than we have seen: all of it was set up anew
NEXT_AFTER_S = 0.1  # without an answer another cluster node is asked as well
T = TypeVar("T")


def slot_of(key: str | bytes) -> int:
    """The cluster slot of a key: CRC16/XMODEM of its hash tag, or of all of it (Redis cluster specification)."""
    data = key.encode() if isinstance(key, str) else key
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return crc_hqx(data, 0) % SLOTS


@dataclass(frozen=True)
class Placement:
    """The primaries, and which of them owns a key."""

    primaries: tuple[Endpoint, ...]
    owners: tuple[int, ...] | None = None  # per slot an index into primaries, -1 = nobody; None: the only one owns all

    def owner(self, key: str | bytes) -> Endpoint | None:
        """None: no primary has the key's slot at this moment."""
        if self.owners is None:
            return self.primaries[0]
        index = self.owners[slot_of(key)]
        return self.primaries[index] if index >= 0 else None


class Topology(Protocol):
    """A way to find the primaries. ``fixed`` ones are looked at once."""

    fixed: bool

    @property
    def restless(self) -> bool:
        """Whether a primary is about to be replaced, as far as anybody says so."""

    async def look(self, timeout: float) -> Placement:
        """Where they are now. Raises Unreachable, or Misconfigured where the URL names the wrong servers."""

    async def listen(
        self, heard: Callable[[], None], *, complain: Callable[[BridgeError], None], timeout: float
    ) -> None:
        """Call ``heard`` whenever somebody says that a primary may be replaced; ends where nobody ever does.

        ``complain``: we may not listen.
        """


class Single:
    """One server, always at the same address."""

    fixed, restless = True, False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def look(self, timeout: float) -> Placement:
        link = await Link.open(self._endpoint, timeout=timeout)
        link.close()
        match link.mode:
            case "cluster":
                raise Misconfigured(f"{self._endpoint} belongs to a cluster; use redis+cluster://{self._endpoint}")
            case "sentinel":
                raise Misconfigured(f"{self._endpoint} is a sentinel; use redis+sentinel://{self._endpoint}/SERVICE")
        return Placement((self._endpoint,))

    async def listen(
        self, heard: Callable[[], None], *, complain: Callable[[BridgeError], None], timeout: float
    ) -> None:
        return


class Doubt:
    """Whether to wait for better knowledge: what contradicts what we know is believed once it has lasted."""

    def __init__(self) -> None:
        self._since: float | None = None

    def about(self, contradiction: bool, believed_after_s: float = BELIEVED_AFTER_S) -> bool:
        now = asyncio.get_running_loop().time()
        if not contradiction:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since < believed_after_s


@dataclass(frozen=True, slots=True)
class _Seen:
    """The slots as one node sees them."""

    by: Endpoint
    well: bool  # it is in touch with the majority, and all slots are served
    epoch: int
    ranges: Sequence[Any]
    epochs: dict[bytes, int]  # of each primary's claim to its slots; the highest is right

    @property
    def served(self) -> int:
        """How many slots have a primary."""
        return sum(last - first + 1 for first, last, *_ in self.ranges)


class Cluster:
    """The slots of a cluster, as the first node tells that sees it well; without one, as the one that knows most.

    A node that has not heard of a fail-over yet would send us back to the primary of the past. So each slot stays
    with the highest claim that was seen, as in the cluster itself, unless everybody contradicts that for long.
    """

    fixed, restless = False, False

    def __init__(self, seeds: Sequence[Endpoint], like: Endpoint) -> None:
        self._known, self._like = list(seeds), like
        self._seen: _Seen | None = None
        self._placed = Placement(())
        self._claims: list[tuple[int, Endpoint | None]] = [(-1, None)] * SLOTS  # per slot
        self._doubt, self._doubted = Doubt(), False

    async def look(self, timeout: float) -> Placement:
        answers, faults = await first_answers(
            [self._ask(node, timeout) for node in self._known],
            enough=lambda answers: answers[-1].well,
            next_after_s=NEXT_AFTER_S,
        )
        seen = max(answers, key=lambda seen: (seen.well, seen.epoch, seen.served), default=None)
        if seen is None:
            raise complaint("no cluster node tells its slots", faults)
        if self._seen is None or self._doubted or (seen.ranges, seen.epochs) != (self._seen.ranges, self._seen.epochs):
            self._placed = self._placement(seen)
            self._seen = seen
        return self._placed

    async def listen(
        self, heard: Callable[[], None], *, complain: Callable[[BridgeError], None], timeout: float
    ) -> None:
        """Whoever asks a primary of the past hears of it there (MOVED, ``sunsubscribe``)."""

    async def _ask(self, node: Endpoint, timeout: float) -> _Seen:
        try:
            info, ranges, nodes = await call_apart(
                node, timeout, ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("CLUSTER", "NODES")
            )
        except ServerError as error:
            if "cluster support disabled" in str(error):
                raise Misconfigured(f"{node} is no cluster node; use redis://{node}") from None
            raise
        facts = dict(line.split(":", 1) for line in _text(info).split("\r\n") if ":" in line)
        if not ranges:
            raise Unreachable(f"{node}: no slots are served")
        rows = [row.split(" ") for row in _text(nodes).splitlines()]
        epochs = {id.encode(): int(epoch) for id, _, _, _, _, _, epoch, *_ in rows}
        return _Seen(node, facts["cluster_state"] == "ok", int(facts["cluster_current_epoch"]), ranges, epochs)

    def _placement(self, seen: _Seen) -> Placement:
        claims: list[tuple[int, Endpoint | None]] = [(-1, None)] * SLOTS
        others = []
        for first, last, primary, *replicas in seen.ranges:
            claim = seen.epochs.get(primary[2], 0), self._endpoint(seen.by, primary)
            claims[first : last + 1] = [claim] * (last - first + 1)
            others += [self._endpoint(seen.by, replica) for replica in replicas]
        outdated = any(new[0] < old[0] for new, old in zip(claims, self._claims, strict=True) if new[1] is not None)
        self._doubted = self._doubt.about(outdated)
        if self._doubted:
            pairs = zip(claims, self._claims, strict=True)
            claims = [old if new[1] is not None and new[0] < old[0] else new for new, old in pairs]
        self._claims = claims
        primaries = tuple(dict.fromkeys(endpoint for _, endpoint in claims if endpoint is not None))
        index: dict[Endpoint | None, int] = {endpoint: i for i, endpoint in enumerate(primaries)}
        # Next time those are asked that serve now; the seeds stay last.
        self._known = list(dict.fromkeys([*primaries, *others, *self._known]))[:64]
        return Placement(primaries, tuple(index.get(endpoint, -1) for _, endpoint in claims))

    def _endpoint(self, told_by: Endpoint, node: Sequence[Any]) -> Endpoint:
        # Without a name it is the address that we came by.
        host = node[0].decode() if node[0] not in (None, b"", b"?") else told_by.host
        return replace(self._like, host=host, port=node[1])


async def call_apart(endpoint: Endpoint, timeout: float, *calls: tuple[str, ...]) -> list[Any]:
    """Some calls on a connection of their own."""
    link = await Link.open(endpoint, timeout=timeout)
    try:
        return await asyncio.gather(*(link.send(*call) for call in calls))
    finally:
        link.close()


async def first_answers(
    asks: Sequence[Coroutine[Any, Any, T]],
    *,
    enough: Callable[[list[T]], bool] = lambda answers: False,
    next_after_s: float = 0.0,
    others_s: float = 0.0,
) -> tuple[list[T], list[BridgeError]]:
    """Answers and errors, until there are ``enough`` answers or no more to come.

    ``next_after_s``: so long each ask waits for an answer to the ones before it. ``others_s``: so long the others may
    still answer once there are enough.
    """
    answers: list[T] = []
    faults: list[BridgeError] = []
    waiting, running = deque(asks), set[asyncio.Task[T]]()
    now, over = asyncio.get_running_loop().time, math.inf
    try:
        while waiting or running:
            if over == math.inf and answers and enough(answers):
                over = now() + others_s
            if now() >= over:
                break
            while waiting:
                running.add(asyncio.create_task(waiting.popleft(), name="topology-ask"))
                if next_after_s:
                    break
            patience = min(next_after_s if waiting else math.inf, over - now())
            done, running = await asyncio.wait(
                running, timeout=patience if patience < math.inf else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                try:
                    answers.append(task.result())
                except BridgeError as error:
                    faults.append(error)
    finally:
        for ask in waiting:
            ask.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return answers, faults


def complaint(what: str, faults: Sequence[BridgeError]) -> BridgeError:
    """It is a matter of settings where everybody says so, and passes otherwise."""
    kind = Misconfigured if all(isinstance(fault, Misconfigured) for fault in faults) else Unreachable
    return kind(f"{what}: {'; '.join(map(str, faults))}")


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer
