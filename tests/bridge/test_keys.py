"""Key names: one slot a shard, one meaning a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from bridge.errors import Misconfigured
from bridge.keys import RESERVED, Keys

KEYS = Keys("chat")
OF_SHARDS = [
    KEYS.commands(7), KEYS.settled(7), KEYS.outcome(7, "7-1-1"), KEYS.idem(7, "shop", "user:1", "k"), KEYS.lease(7),
    KEYS.epoch(7), KEYS.incarnation(7), KEYS.asleep(7), KEYS.starts(7), KEYS.dead(7), KEYS.requeued(7), KEYS.spare(7),
    KEYS.ring(7), KEYS.ended(7), KEYS.channel(7, "room:a"), KEYS.log(7, "room:a"), KEYS.state(7, "room:a", "settings"),
    KEYS.shared(7, "rooms"), KEYS.receipts(7, "7-1-1"),
]  # fmt: skip


def test_all_keys_of_a_shard_share_its_slot() -> None:
    assert all(key.startswith("chat:{7}:") for key in OF_SHARDS)


def test_every_key_has_its_own_name() -> None:
    assert len(set(OF_SHARDS)) == len(OF_SHARDS)


def test_names_that_others_rely_on() -> None:
    assert KEYS.commands(7) == "chat:{7}:commands"
    assert KEYS.settled(7) == "chat:{7}:settled"
    assert KEYS.meta == "chat:{meta}"
    assert KEYS.live == "chat:{nodes}:live"
    assert KEYS.node_channel("node-a") == "chat:{nodes}:node-a"


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a:b", "a b", "a\nb"])
def test_a_namespace_that_would_break_the_hash_tag_is_refused(namespace: str) -> None:
    with pytest.raises(Misconfigured):
        Keys(namespace)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_shared_state_cannot_take_a_name_of_the_bridge(name: str) -> None:
    with pytest.raises(Misconfigured):
        KEYS.shared(7, name)


def test_every_shard_key_is_reserved() -> None:
    own: list[Callable[..., str]] = [m for n, m in inspect.getmembers(KEYS, inspect.ismethod) if n not in
                                     ("shard", "state", "shared", "node_channel", "__init__")]  # fmt: skip
    for method in own:
        arguments = ["x"] * (len(inspect.signature(method).parameters) - 1)
        assert method(7, *arguments).removeprefix("chat:{7}:").split(":")[0] in RESERVED


def test_callers_whose_names_hold_colons_do_not_share_idempotency_keys() -> None:
    one = KEYS.idem(7, "shop", "user:1", "user:1:k")
    other = KEYS.idem(7, "shop:user:1", "user:1", "k")
    assert one != other
