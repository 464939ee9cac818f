"""Passwords: argon2id hashes, made and checked in threads, a few at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

MIN_CHARS = 10
MAX_CHARS = 200
_SIDE_BY_SIDE = 2  # each takes 64 MiB and some 0.1 s of a core

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

    async def hash(self, password: str) -> str:
        return await self._run(_hasher.hash, password)

    async def fits(self, password: str, hashed: str | None) -> bool:
        """Whether the password has this hash. None: of nobody; a hash is computed all the same, and takes as long."""
        return await self._run(_verify, password, hashed or _nobody) and hashed is not None

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._free:
            self._computed()
            return await asyncio.to_thread(function, *args, **kwargs)


def new_password() -> str:
    """A random one that can be read out loud."""
    return "-".join(secrets.token_hex(2) for _ in range(5))


def _verify(password: str, hashed: str) -> bool:
    try:
        return _hasher.verify(hashed, password)
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return False
