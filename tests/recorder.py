"""What happened, for tests to wait for: records the events that roles emit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from bridge.telemetry import Telemetry

E = TypeVar("E")


class Recorder:
    """Every event since the start or the last ``clear``, oldest first.

    Hand ``telemetry`` to what is under test, or ``follow`` the one that it has. A filter
    compares an attribute with a value, or calls it: ``wait_for(Settled, state="done",
    waited_s=lambda s: s < 2)``.
    """

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.events: list[object] = []
        self._changed = asyncio.Event()
        self._unsubscribe: list[Callable[[], None]] = []
        self.follow(self.telemetry)

    def follow(self, telemetry: Telemetry) -> None:
        """Record what this one emits as well; nodes of one test can share a recorder."""
        self._unsubscribe.append(telemetry.listen(self._record, inline=True))

    def all(self, type_: type[E], **filters: Any) -> list[E]:
        """The matching events so far."""
        return [event for event in self.events if _matches(event, type_, filters)]  # type: ignore[misc]

    async def wait_for(self, type_: type[E], *, timeout: float = 10, **filters: Any) -> E:
        """The first matching event, one that has happened already included."""
        return (await self.wait_for_many(1, type_, timeout=timeout, **filters))[0]

    async def wait_for_many(self, count: int, type_: type[E], *, timeout: float = 10, **filters: Any) -> list[E]:
        """The first ``count`` matching events."""
        found: list[E] = []
        try:
            async with asyncio.timeout(timeout):
                while len(found := self.all(type_, **filters)) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            found = self.all(type_, **filters)  # this process may have been stalled until the deadline
            if len(found) >= count:
                return found[:count]
            last = "\n  ".join(map(repr, self.events[-20:])) or "nothing"
            wanted = f"{type_.__name__}({', '.join(f'{name}={value!r}' for name, value in filters.items())})"
            raise AssertionError(
                f"{len(found)} of {count} {wanted} within {timeout:g} s; what happened last:\n  {last}"
            ) from None
        return found[:count]

    def clear(self) -> None:
        """Forget what happened, to wait for what comes next."""
        self.events.clear()

    def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    def _record(self, event: object) -> None:
        self.events.append(event)
        self._changed.set()


def _matches(event: object, type_: type[Any], filters: dict[str, Any]) -> bool:
    if not isinstance(event, type_):
        return False
    for name, wanted in filters.items():
        value = getattr(event, name)
        if not (wanted(value) if callable(wanted) else value == wanted):
            return False
    return True
