"""What operators read in a shell."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.printing import print_command

KICK = {"id": "7-5-1", "type": "user.kick", "subject": "user:u1", "state": "done", "node": "node-b"}


@pytest.mark.parametrize(
    ("receipts", "missing", "told"),
    [
        ({}, [], ""),
        ({"node-a": 0, "node-b": 2, "node-c": 0}, [], "; 2 sessions on node-b; 3 of 3 nodes"),
        ({"node-a": 1, "node-b": 2}, [], "; 1 session on node-a; 2 sessions on node-b; 2 of 2 nodes"),
        ({"node-a": 0}, [], "; no sessions; 1 of 1 nodes"),
        ({"node-b": 2}, ["node-a", "node-c"], "; 2 sessions on node-b; 1 of 3 nodes, no word from node-a, node-c"),
        ({}, ["node-a"], "; no sessions; 0 of 1 nodes, no word from node-a"),
    ],
)
def test_a_command_says_whom_it_touched(
    receipts: dict[str, int], missing: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer: dict[str, Any] = {
        **KICK,
        "receipts": [{"node": node, "sessions": n} for node, n in receipts.items()],
        "missing_nodes": missing,
    }
    print_command(answer)
    assert capsys.readouterr().out == f"7-5-1 user.kick user:u1: done on node-b{told}\n"
