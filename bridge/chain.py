"""The audit chain as values: what an entry's hash covers, and where a chain does not hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

FIRST_PREV = "0" * 64


class Entry(NamedTuple):
    """One entry as it stands in its chain."""

    chain: str
    seq: int
    at: int  # ms since the epoch
    by: str
    action: str  # such as commands.issue
    target: str  # such as room:lobby
    reason: str | None
    address: str  # the caller's
    request_id: str
    result: str  # "intended", or what came of the entry ``of``
    of: int | None  # seq of the entry whose result this one tells; None: of an intent, or of what was refused at once
    detail: str  # JSON
    prev: str
    hash: str


def digest(entry: Entry) -> str:
    """What its hash has to be."""
    return seal(entry[:-1])


def seal(values: tuple[Any, ...]) -> str:
    """SHA-256 of everything in an entry but its own hash, as a JSON array."""
    return sha256(orjson.dumps(values)).hexdigest()


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a chain does not hold."""

    chain: str
    seq: int  # the first entry that is not what it was, or not where it was
    what: str


class Verifier:
    """Follows chains entry by entry, in the order of their seq; any number of chains may be mixed."""

    def __init__(self) -> None:
        self.heads: dict[str, tuple[int, str]] = {}
        self.broken: list[Broken] = []

    def look(self, entry: Entry) -> None:
        seq, hash = self.heads.get(entry.chain, (0, FIRST_PREV))
        if entry.seq != seq + 1:
            gone = f"{seq + 1} to {entry.seq - 1}" if entry.seq > seq + 2 else f"{seq + 1}"
            self._break(entry.chain, seq + 1, f"entry {gone} is missing" if entry.seq > seq else "out of place")
        elif entry.prev != hash and seq and digest(entry) == entry.hash:  # whoever changed that one made a hash for it
            self._break(entry.chain, seq, f"is not what entry {entry.seq} was written after")
        elif entry.prev != hash:
            self._break(entry.chain, entry.seq, "does not follow the entry before it")
        elif digest(entry) != entry.hash:
            self._break(entry.chain, entry.seq, "was changed")
        self.heads[entry.chain] = entry.seq, entry.hash

    def end(self, recorded: Iterable[tuple[str, int, str]]) -> None:
        """Compare with where the chains are said to end."""
        for chain, seq, hash in recorded:
            last, found = self.heads.get(chain, (0, FIRST_PREV))
            if last == seq and found != hash:
                self._break(chain, seq, "is not what was written last")
            elif last != seq:
                self._break(chain, min(last + 1, seq), f"the chain ends at {last}, and was written up to {seq}")

    def _break(self, chain: str, seq: int, what: str) -> None:
        self.broken.append(Broken(chain, seq, what))
