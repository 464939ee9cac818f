"""Operators' commands to a fleet of chat server nodes: exactly once in effect, in order, on whichever node is alive."""

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.effects import Effects
from bridge.envelope import Command, Position, Publication
from bridge.errors import BridgeError, Invalid, Overloaded, Rejected, Retry, Unreachable
from bridge.publisher import Receipt
from bridge.record import Outcome
from bridge.registry import Registry, command, handles
from bridge.telemetry import Telemetry

__all__ = [
    "Bridge", "BridgeError", "BridgeSettings", "Command", "Effects", "Invalid", "Outcome", "Overloaded", "Position",
    "Publication", "Receipt", "Registry", "Rejected", "Retry", "Telemetry", "Unreachable", "command", "handles",
]  # fmt: skip
