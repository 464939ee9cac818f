"""Errors carry facts, and say the remedy."""

from __future__ import annotations

import pytest

from bridge.errors import (
    BridgeError,
    Fenced,
    IdempotencyMismatch,
    Invalid,
    InvalidPayload,
    Misconfigured,
    NameTaken,
    NoGroup,
    Overloaded,
    Rejected,
    Retry,
    ServerError,
    TooLarge,
    UnknownType,
)


@pytest.mark.parametrize("refused", [InvalidPayload, UnknownType, TooLarge, IdempotencyMismatch])
def test_everything_wrong_with_a_command_is_invalid(refused: type[BridgeError]) -> None:
    assert issubclass(refused, Invalid)


@pytest.mark.parametrize(
    ("error", "general"), [(NoGroup, ServerError), (NameTaken, Misconfigured), (Fenced, BridgeError)]
)
def test_special_errors_are_kinds_of_general_ones(error: type[Exception], general: type[Exception]) -> None:
    assert issubclass(error, general)


@pytest.mark.parametrize("raised", [Rejected("no"), Retry()])
def test_what_handlers_raise_is_no_error_of_the_bridge(raised: Exception) -> None:
    assert not isinstance(raised, BridgeError)


def test_an_overload_carries_its_figures() -> None:
    error = Overloaded(10_000, 9_000, 1.5)
    assert (error.backlog, error.limit, error.retry_after_s) == (10_000, 9_000, 1.5)
    assert str(error) == "backlog 10000 is over 9000; try again in 1.5 s"


def test_an_unknown_type_names_the_nodes_that_lack_it() -> None:
    error = UnknownType("item.grant", nodes=["node-a", "node-b"])
    assert error.nodes == ("node-a", "node-b")
    assert "node-a, node-b: deploy nodes first" in str(error)


def test_a_bad_payload_lists_every_fault_and_points_to_the_first() -> None:
    error = InvalidPayload("item.grant", [("/item", "missing", "Field required"), ("/n", "int_type", "not an int")])
    assert len(error.faults) == 2
    assert error.path == "/item"
    assert "/item: Field required" in str(error)


def test_a_mismatch_names_the_key_and_the_command_that_has_it() -> None:
    error = IdempotencyMismatch("order-77", "7-1-1")
    assert (error.key, error.id) == ("order-77", "7-1-1")


def test_a_size_error_says_what_to_do() -> None:
    assert "shorten" in str(TooLarge(70_000, 65_536))
