"""What tests of the Python client read from it, and a jitter that does not hold them up."""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypeVar

from bridge.chat.client import ChatClient, Message

E = TypeVar("E")


async def event(client: ChatClient, kind: type[E], **fields: Any) -> E:
    """The next event of this kind with these fields; others are passed over."""
    async with asyncio.timeout(60):  # one pause between two attempts may be 20
        async for each in client:
            if isinstance(each, kind) and all(getattr(each, name) == value for name, value in fields.items()):
                return each
    raise AssertionError("the client ended")


async def texts(client: ChatClient, last: str) -> list[str | None]:
    """Texts of messages up to this one."""
    found: list[str | None] = []
    while last not in found:
        found.append((await event(client, Message)).text)
    return found


class Least(random.Random):
    """Jitter that waits next to nothing, and notes the bounds."""

    def __init__(self) -> None:
        super().__init__(1)
        self.bounds: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.bounds.append(b)
        return b / 1000
