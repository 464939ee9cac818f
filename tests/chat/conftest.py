"""Nodes for the client's tests."""

from tests.chatserver.conftest import chat, node, spawn, two_nodes

__all__ = ["chat", "node", "spawn", "two_nodes"]
