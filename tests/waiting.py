"""Waiting without sleeping: for a condition with a deadline, and for processes to end."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from bridge.errors import Unreachable
from bridge.rest import NotAnswered, Refused

PAUSE_S = 0.003
LAST_LOOK_S = 5.0  # for one more answer after the deadline: this process may have been stalled until then
_TICK_S = 0.02
T = TypeVar("T")


async def until(predicate: Callable[[], Any], timeout: float = 10, *, what: Callable[[], str] | str = "") -> Any:
    """Ask ``predicate``, plain or async, until it answers something true, and return that."""
    value: Any = None
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        async with asyncio.timeout(timeout + LAST_LOOK_S):
            while True:
                try:
                    answer = predicate()
                    value = await answer if inspect.isawaitable(answer) else answer
                    if value:
                        return value
                except Unreachable as error:  # no answer yet
                    value = error
                if asyncio.get_running_loop().time() > deadline:  # redis-py may swallow the cancellation
                    break
                await asyncio.sleep(PAUSE_S)  # noqa: TID251 - the one place that may
    except TimeoutError:
        pass
    raise AssertionError(f"not within {timeout:g} s: {_name(what, predicate)}; last answer {value!r}")


async def noticed() -> None:
    """Until this event loop has seen what the kernel knows by now: connections to a killed process are gone."""
    await asyncio.sleep(PAUSE_S)  # noqa: TID251 - see above


async def answered(ask: Callable[[], Awaitable[T]], timeout: float = 10) -> T:
    """What Redis or a back office answers, asked again while it cannot.

    For reads after a fault, when all works again, and for calls of processes that may stall with the machine; what is
    to be done once has a key.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        try:
            return await ask()
        except (Unreachable, NotAnswered, Refused) as error:
            final = isinstance(error, Refused) and error.status != 503
            if final or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(PAUSE_S)  # noqa: TID251 - see above


def block_until(predicate: Callable[[], Any], timeout: float = 10, *, what: Callable[[], str] | str = "") -> Any:
    """The same without an event loop, for fixtures."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {_name(what, predicate)}; last answer {value!r}")
        time.sleep(PAUSE_S)  # noqa: TID251 - see above
    return value


def _name(what: Callable[[], str] | str, predicate: Callable[[], Any]) -> object:
    return (what() if callable(what) else what) or predicate


class Stopwatch:
    """``seconds`` that this process was at work: those in which the machine stood still count for next to nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name="stopwatch")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait((self._running,))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)  # noqa: TID251 - see above
            self.seconds += _TICK_S


async def ended(pid: int, timeout: float = 10) -> None:
    """Until process ``pid``, anybody's, has ended; at once if there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        async with asyncio.timeout(timeout):
            await gone.wait()
    except TimeoutError:
        raise AssertionError(f"process {pid} still runs after {timeout:g} s") from None
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def running(pid: int) -> bool:
    """Whether process ``pid`` runs at this moment; one that nobody has waited for yet does not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([descriptor], [], [], 0)[0]
    finally:
        os.close(descriptor)
