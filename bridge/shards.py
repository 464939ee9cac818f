"""Subject → shard, and which node ought to hold which shard. Pure."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from hashlib import blake2b

DEFAULT_SHARDS = 64


def shard_of(subject: str, shards: int) -> int:
    """CRC16/XMODEM of the whole subject string, modulo the shard count, as producers in other languages compute it."""
    return crc_hqx(subject.encode(), 0) % shards


def ranking(shard: int, nodes: Iterable[str]) -> list[str]:
    """Nodes in the order in which they ought to hold ``shard``.

    Rendezvous (highest random weight) hashing, Thaler & Ravishankar 1998: when a node
    joins or leaves, only the shards it wins or held move, about 1/N of them.
    """
    return sorted(nodes, key=lambda node: _weight(shard, node), reverse=True)


def wanted(node: str, nodes: Sequence[str], shards: int) -> frozenset[int]:
    """The shards that ``node`` ought to hold among ``nodes`` (itself included where it takes part)."""
    if node not in nodes:
        return frozenset()
    return frozenset(s for s in range(shards) if max(nodes, key=lambda n: _weight(s, n)) == node)


def _weight(shard: int, node: str) -> tuple[bytes, str]:
    return blake2b(f"{shard}/{node}".encode(), digest_size=8).digest(), node
