"""Passwords: argon2id hashes, made and checked in threads, a few at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from backoffice.problems import retry

MIN_CHARS = 10
MAX_CHARS = 200
PLACES = 20  # for strangers, and as many for who is known
_SIDE_BY_SIDE = 2  # each takes 64 MiB and some 0.1 s of a core
_BUSY_S = 2.0  # in which the places become free

P = ParamSpec("P")
T = TypeVar("T")

_hasher = PasswordHasher()  # the parameters of RFC 9106, section 4, second recommendation
_nobody = _hasher.hash(secrets.token_urlsafe())


class Passwords:
    """One for each service, so that guesses cannot take all cores."""

    def __init__(self, computed: Callable[[], None] = lambda: None) -> None:
        """``computed`` is told of each hash, whatever came of it."""
        self._computed = computed
        self._free = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._threads = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="passwords")
        self._taken: Counter[bool] = Counter()  # places, by whether strangers have them

    @classmethod
    @asynccontextmanager
    async def open(cls, computed: Callable[[], None]) -> AsyncIterator[Passwords]:
        """Its threads end with it."""
        passwords = cls(computed)
        try:
            yield passwords
        finally:
            passwords._threads.shutdown()

    @contextmanager
    def place(self, *, stranger: bool = False) -> Iterator[None]:
        """One of a few places in the queue, to be taken before a hash is asked for. Raises Problem if none is free.

        Strangers have places of their own: however many come, they do not keep out who is known.
        """
        if self._taken[stranger] >= PLACES:
            raise retry("overloaded", f"too many passwords are being checked; try again in {_BUSY_S:.0f} s", _BUSY_S)
        self._taken[stranger] += 1
        try:
            yield
        finally:
            self._taken[stranger] -= 1

    async def hash(self, password: str) -> str:
        return await self._run(_hasher.hash, password)

    async def fits(self, password: str, hashed: str | None) -> bool:
        """Whether the password has this hash. None: of nobody; a hash is computed all the same, and takes as long."""
        return await self._run(_verify, password, hashed or _nobody) and hashed is not None

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await self._free.acquire()
        self._computed()
        thread = asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))
        # Nothing stops a thread: it holds its turn until it ends, even if whoever asked has left by then.
        thread.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(thread)


def new_password() -> str:
    """A random one that can be read out loud."""
    return "-".join(secrets.token_hex(2) for _ in range(5))


def _verify(password: str, hashed: str) -> bool:
    try:
        return _hasher.verify(hashed, password)
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return False
