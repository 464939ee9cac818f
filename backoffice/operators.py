"""Who calls, and what they may do: bearer tokens, the four roles, the role that each command type takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from bridge.errors import Misconfigured
from bridge.registry import CommandType

MIN_TOKEN_CHARS = 16
# None is "-", which is nobody, or "..", which no path can end in.
NAME = "[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,62}[A-Za-z0-9])?"
_TOKEN = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # visible ASCII but the comma, which separates the entries


class Role(IntEnum):
    """Each may do what the ones before it may."""

    VIEWER = 1
    MODERATOR = 2
    OPERATOR = 3
    ADMIN = 4

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    name: str  # becomes ``by`` of what they issue
    role: Role


class Tokens:
    """The bearer tokens of one installation. Only their digests are kept, and looked up by digest:
    how long a look-up takes says nothing about any token."""

    def __init__(self, callers: dict[str, Caller]) -> None:
        self._callers = {digest_of(token): caller for token, caller in callers.items()}
        self.names = frozenset(caller.name for caller in callers.values())

    @classmethod
    def parse(cls, text: str) -> Tokens:
        """Read ``name:role:token,…``. Raises Misconfigured with the entry's number, never with a token."""
        callers: dict[str, Caller] = {}
        for number, entry in enumerate(text.split(","), start=1):
            token, caller = _parse_entry(f"entry {number}", entry.strip())
            if token in callers:
                raise Misconfigured(f"entry {number} has the token of another entry; make a token for each")
            callers[token] = caller
        return cls(callers)

    def find(self, token: str) -> Caller | None:
        return self.of_digest(digest_of(token))

    def of_digest(self, digest: bytes) -> Caller | None:
        return self._callers.get(digest)


def digest_of(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _parse_entry(which: str, entry: str) -> tuple[str, Caller]:
    name, _, rest = entry.partition(":")
    role, _, token = rest.partition(":")
    if not token:
        raise Misconfigured(f"{which}: write name:role:token, and a comma before the next")
    if not re.fullmatch(NAME, name):
        raise Misconfigured(f"{which}: name {name!r}: 1-64 of A-Z a-z 0-9 . _ @ + -, a letter or digit at both ends")
    if role not in map(str, Role):
        raise Misconfigured(f"{which}: role {role!r} is none of {', '.join(map(str, Role))}")
    if len(token) < MIN_TOKEN_CHARS or not _TOKEN.fullmatch(token):
        raise Misconfigured(
            f"{which}: the token needs {MIN_TOKEN_CHARS} or more visible ASCII characters; "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
        )
    return token, Caller(name, Role[role.upper()])


def role_to_issue(command: CommandType) -> Role:
    """The least role that may issue or cancel commands of this type."""
    moderation = command.name.startswith(("member.", "message.")) or command.name in ("notice.post", "user.warn")
    return Role.MODERATOR if moderation and not command.plugin else Role.OPERATOR
