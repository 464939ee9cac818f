"""Placement: subject to shard, shard to node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from bridge.shards import ranking, shard_of, wanted

fleets = st.lists(st.from_regex(r"node-[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=8, unique=True)


def test_the_crc_is_the_one_of_the_interface() -> None:
    assert shard_of("123456789", 1 << 16) == 0x31C3  # the check value of CRC-16/XMODEM


@given(st.text("abcdef:0123456789", min_size=1), st.sampled_from([1, 2, 64, 1024]))
def test_the_shard_of_a_subject_is_the_slot_of_a_cluster_modulo_the_count(subject: str, shards: int) -> None:
    assert shard_of(subject, shards) == key_slot(subject.encode()) % shards


def test_braces_mean_nothing_in_a_subject() -> None:
    assert shard_of("room:{a}", 64) != shard_of("room:a", 64)


def test_subjects_spread_evenly() -> None:
    counts = [0] * 64
    for user in range(64_000):
        counts[shard_of(f"user:{user}", 64)] += 1
    assert max(counts) < 2 * min(counts)


@given(fleets)
def test_every_shard_is_wanted_by_exactly_one_node(nodes: list[str]) -> None:
    shares = [wanted(node, nodes, 16) for node in nodes]
    assert sorted(shard for share in shares for shard in share) == list(range(16))


@given(fleets, st.randoms())
def test_all_nodes_agree_whatever_the_order_of_their_lists(nodes: list[str], random: object) -> None:
    shuffled = sorted(nodes, key=hash)
    assert all(ranking(shard, nodes) == ranking(shard, shuffled) for shard in range(8))


@given(fleets)
def test_who_wants_a_shard_is_first_in_its_ranking(nodes: list[str]) -> None:
    for node in nodes:
        assert all(ranking(shard, nodes)[0] == node for shard in wanted(node, nodes, 16))


@given(fleets)
def test_only_the_shards_of_a_node_that_left_move(nodes: list[str]) -> None:
    leaver, rest = nodes[0], nodes[1:]
    for node in rest:
        gained = wanted(node, rest, 32) - wanted(node, nodes, 32)
        assert gained <= wanted(leaver, nodes, 32)
        assert wanted(node, nodes, 32) <= wanted(node, rest, 32)


def test_a_node_that_takes_no_part_wants_nothing() -> None:
    assert wanted("node-c", ["node-a", "node-b"], 64) == frozenset()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shares_are_about_equal(count: int) -> None:
    nodes = [f"node-{i}" for i in range(count)]
    sizes = [len(wanted(node, nodes, 1024)) for node in nodes]
    assert max(sizes) < 1.4 * 1024 / count
