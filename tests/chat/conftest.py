"""Nodes for the client's tests."""

from tests.chatserver.conftest import chat, node, two_nodes
from tests.chatserver.test_process import spawn

__all__ = ["chat", "node", "spawn", "two_nodes"]
