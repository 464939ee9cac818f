"""What became of accepted commands, from the ledgers: lost, twice, out of order, and how long each waited."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from bridge.client import Bridge
from tests.faults.ledger import LEDGER
from tests.faults.load import Load
from tests.figures import Figures, spread
from tests.waiting import answered, until

FAIL_S = 10.0  # no command may wait longer, whatever the machine is busy with


@dataclass(slots=True)
class Audit:
    """The books of one run. A line's place in time is the id that the server gave it."""

    accepted: int = 0
    applied: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    times: list[tuple[int, int]] = field(default_factory=list)  # accepted, in effect: ms of the server's clock

    def clean(self) -> None:
        """Raise AssertionError unless everything took effect exactly once and in order."""
        found = {name: getattr(self, name) for name in ("lost", "twice", "out_of_order", "unasked")}
        assert not any(found.values()), f"of {self.accepted}: " + "; ".join(
            f"{len(ids)} {name} ({', '.join(ids[:5])})" for name, ids in found.items() if ids
        )

    def waits(self, faults: Sequence[float], within_s: float = 3.0) -> list[float]:
        """Seconds that the commands touched by ``faults`` (ms) waited, from the fault or from their acceptance.

        Touched are those not in effect at that moment, and those accepted within ``within_s`` after it.
        """
        return [
            (done - max(accepted, fault)) / 1000
            for fault in faults
            for accepted, done in self.times
            if done >= fault and accepted < fault + within_s * 1000
        ]

    def waits_for_server(self, answers: Sequence[float], within_s: float = 3.0) -> list[float]:
        """The same counted from the moments at which the server answered again: the last one before the effect."""
        latest = [
            (accepted, done, max((a for a in answers if a <= done), default=inf)) for accepted, done in self.times
        ]
        return [
            (done - max(accepted, a)) / 1000
            for accepted, done, a in latest
            if a <= done and accepted < a + within_s * 1000
        ]


async def drained(bridge: Bridge, timeout: float = 60) -> None:
    """Until no accepted command is left that has not ended."""

    async def empty() -> bool:
        calls = [bridge.redis.call("XLEN", bridge.keys.commands(shard)) for shard in range(bridge.shards)]
        lengths = await asyncio.gather(*calls, return_exceptions=True)
        return lengths == [0] * len(lengths)  # a server that is away has not ended anything

    try:
        await until(empty, timeout)
    except AssertionError:
        raise AssertionError(f"commands that do not end: {await _stuck(bridge)}") from None


async def _stuck(bridge: Bridge) -> list[object]:
    """Shards with a backlog, who holds them, and what is pending there."""
    shards = [info for info in await bridge.shard_infos() if info.length]
    pending = [await bridge.pending(info.shard, 5) for info in shards]
    return [*await bridge.nodes(), *zip(shards, pending, strict=True)]


async def audit(bridge: Bridge, load: Load, *, since_ms: Mapping[str, float] | None = None) -> Audit:
    """Compare what was accepted (by room: later than ``since_ms``) with the ledgers."""
    books = Audit()
    for room, accepted in load.accepted.items():
        since = since_ms[room] if since_ms is not None else 0
        _compare(books, room, [id for id in accepted if _minted_ms(id) > since], await ledger(bridge, room))
    return books


def _minted_ms(id: str) -> float:
    """When the server made the id, to the microsecond: see mint.lua."""
    _, ms, sequence = id.split("-")
    return int(ms) + (int(sequence) - 10**9) / 2**20 / 1000


async def ledger(bridge: Bridge, room: str) -> list[tuple[str, dict[bytes, bytes]]]:
    """What took effect in a room, in order: the server's ids and the lines."""
    key = bridge.keys.state(bridge.shard_of(room), room, LEDGER)
    rows = await answered(lambda: bridge.redis.call("XRANGE", key, "-", "+"))
    return [(entry.decode(), dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in rows]


def _compare(books: Audit, room: str, ids: list[str], lines: list[tuple[str, dict[bytes, bytes]]]) -> None:
    applied = [line[b"id"].decode() for _, line in lines]
    counts = Counter(applied)
    books.accepted += len(ids)
    books.applied += len(applied)
    books.lost += [id for id in ids if not counts[id]]
    books.twice += [id for id, count in counts.items() if count > 1]
    books.unasked += sorted(counts.keys() - set(ids))
    before, last = b"", -1
    for id, (entry, line) in zip(applied, lines, strict=True):
        # The number must grow, and the handler must have seen the state that the one before it left.
        if int(line[b"n"]) <= last or line[b"before"] != before:
            books.out_of_order.append(f"{room} {id}")
        before, last = line[b"n"], int(line[b"n"])
        books.times.append((int(id.split("-")[1]), int(entry.split("-")[0])))


def conclude(
    scenario: str,
    books: Audit,
    rounds: int,
    waits: Sequence[float],
    figures: Figures,
    *,
    fail_s: float | None = FAIL_S,
) -> None:
    """Report the books and the waits; raise AssertionError where they are not clean or somebody waited too long."""
    figures.report(
        scenario, rounds=rounds, commands=books.accepted, lost=len(books.lost), twice=len(books.twice),
        out_of_order=len(books.out_of_order), wait_s=spread(waits),
    )  # fmt: skip
    books.clean()
    assert fail_s is None or max(waits, default=0.0) < fail_s
