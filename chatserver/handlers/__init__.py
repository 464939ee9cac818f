"""What each command does, one file per family. Importing registers the handlers."""

from chatserver.handlers import members, messages, notices, rooms, users

__all__ = ["members", "messages", "notices", "rooms", "users"]
