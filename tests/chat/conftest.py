"""Nodes for the client's tests."""

from tests.chatserver.conftest import chat, node, two_nodes

__all__ = ["chat", "node", "two_nodes"]
