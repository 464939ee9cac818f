"""Operators with their passwords and sessions, and API tokens, as the database has them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from backoffice.operators import Caller, Role
from backoffice.passwords import Passwords, new_password
from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import operators, sessions, tokens
from backoffice.times import now_ms
from bridge.errors import Conflict, NotFound

SESSION_S = 12 * 3600  # from login on
IDLE_S = 2 * 3600  # without a request
_SEEN_EVERY_MS = 60_000  # how exactly it is kept when a session was seen
FIRST_ADMIN = "admin"
_ADMIN = operators.c.role == str(Role.ADMIN), operators.c.disabled.is_(False), operators.c.subject.is_(None)


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may log in."""

    name: str
    role: Role
    must_change: bool  # may do nothing but choose another password
    disabled: bool
    created_at: int  # ms since the epoch
    sessions: int = 0  # how many are open


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token, without what nobody keeps: the token itself."""

    id: str
    name: str
    role: Role
    created_by: str
    created_at: int  # ms since the epoch
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Session:
    """An operator who is logged in."""

    operator: Operator
    digest: str
    expires_at: int  # ms since the epoch


class People:
    """Who may do what here. All writes are on disk when they return; all raise RecordsUnavailable."""

    def __init__(self, records: Records, passwords: Passwords, taken: Collection[str] = ()) -> None:
        """``taken``: names of tokens of the settings."""
        self._records, self.passwords, self._taken = records, passwords, taken

    # operators

    async def first_admin(self, password: str | None = None) -> str | None:
        """Make the first admin where there is nobody. Without a password one is made up, which they have to change:
        that is the answer; None where nothing was made up."""
        async with self._records.reading() as connection:
            if (await connection.execute(select(func.count()).select_from(operators))).scalar_one():
                return None
        made_up = None if password else new_password()
        try:
            await self._add(FIRST_ADMIN, Role.ADMIN, password or made_up or "", must_change=made_up is not None)
        except Conflict:  # another back office was first
            return None
        return made_up

    async def add(self, name: str, role: Role, password: str, *, must_change: bool = True) -> Operator:
        """Raises Conflict where the name is an operator's or a token's: what they do would look the same."""
        return await self._add(name, role, password, must_change=must_change, unlike_tokens=True)

    async def _add(
        self, name: str, role: Role, password: str, *, must_change: bool, unlike_tokens: bool = False
    ) -> Operator:
        hashed, now = await self.passwords.hash(password), now_ms()
        row = {"name": name, "role": str(role), "password": hashed, "must_change": must_change, "disabled": False,
               "created_at": now}  # fmt: skip
        try:
            async with self._records.writing() as connection:
                if unlike_tokens and name in await self._tokens_names(connection, [name]):
                    raise Conflict(f"there is a token {name!r} already; choose another name, or drop the token first")
                await connection.execute(insert(operators).values(row))
        except RecordsUnavailable as error:
            if isinstance(error.__cause__, IntegrityError):
                raise Conflict(f"there is an operator {name!r} already") from None
            raise
        return Operator(name, role, must_change, False, now)

    async def all(self) -> list[Operator]:
        """By name, with how many sessions each has."""
        open_ = (
            select(sessions.c.operator, func.count().label("open"))
            .where(_alive(now_ms()))
            .group_by(sessions.c.operator)
            .subquery()
        )
        query = (
            select(operators, func.coalesce(open_.c.open, 0).label("open"))
            .outerjoin(open_, open_.c.operator == operators.c.name)
            .order_by(operators.c.name)
        )
        async with self._records.reading() as connection:
            return [_operator(row, row.open) for row in await connection.execute(query)]

    async def change(
        self, name: str, *, role: Role | None = None, disabled: bool | None = None, password: str | None = None
    ) -> Operator:
        """Change what is given; whatever it is, their sessions end. A new password has to be changed at login.

        Raises NotFound, and Conflict where no admin with a password would be left (the others' roles are the login
        provider's to say), or who logs in elsewhere would have a password.
        """
        values: dict[str, Any] = {} if role is None else {"role": str(role)}
        if disabled is not None:
            values["disabled"] = disabled
        if password is not None:
            values |= {"password": await self.passwords.hash(password), "must_change": True}
        async with self._records.writing() as connection:
            await _clear(connection)
            # Held until the end, so that two of them are not made something else side by side.
            held = select(operators.c.name).where(*_ADMIN).order_by(operators.c.name).with_for_update()
            last = list((await connection.execute(held)).scalars()) == [name]
            await connection.execute(update(operators).where(operators.c.name == name).values(values))
            await connection.execute(delete(sessions).where(sessions.c.operator == name))
            row = (await connection.execute(select(operators).where(operators.c.name == name))).first()
            if row is None:
                raise NotFound(f"no operator {name!r}")
            if row.subject is not None and password is not None:
                raise Conflict(f"{name} logs in at the login provider, and has no password here")
            if last and (row.role != str(Role.ADMIN) or row.disabled):
                raise Conflict(f"{name} is the last admin with a password; make another one first")
            return _operator(row)

    async def choose_password(self, name: str, old: str, new: str) -> bool:
        """An operator's own new password; False where the old one is wrong. Their sessions end."""
        fitting = await self._fits(name, old)
        if fitting is None:
            return False
        hashed = await self.passwords.hash(new)
        async with self._records.writing() as connection:
            mine = operators.c.name == name, operators.c.password == fitting, operators.c.disabled.is_(False)
            chosen = update(operators).where(*mine).values(password=hashed, must_change=False)
            if not (await connection.execute(chosen)).rowcount:
                return False
            await connection.execute(delete(sessions).where(sessions.c.operator == name))
        return True

    # sessions

    async def log_in(self, name: str, password: str, *, address: str, agent: str) -> tuple[str, Session] | None:
        """A new session and its secret; None: name or password are wrong, and nobody learns which."""
        hashed = await self._fits(name, password)
        if hashed is None:
            return None
        async with self._records.writing() as connection:
            await _clear(connection)
            # Whoever was changed since the password was checked does not get in by what held before.
            same = operators.c.name == name, operators.c.password == hashed, operators.c.disabled.is_(False)
            found = (await connection.execute(select(operators).where(*same).with_for_update(read=True))).first()
            if found is None:
                return None
            secret, expires = await _begin(connection, name, address, agent)
            return secret, Session(_operator(found), _digest(secret), expires)

    async def called(self, subject: str, names: Sequence[str]) -> tuple[str, Role | None]:
        """What somebody is called here whom the login provider knows, and their role: as before, or else the first name
        that is free, and None.

        A name that is taken stays with whom it belongs to, operator or token, as the provider might let people choose.
        """
        async with self._records.reading() as connection:
            known = select(operators.c.name, operators.c.role).where(operators.c.subject == subject)
            if found := (await connection.execute(known)).first():
                return found.name, _role(found.role)
            others = select(operators.c.name).where(operators.c.name.in_(names))
            taken = {*(await connection.execute(others)).scalars(), *await self._tokens_names(connection, names)}
        return next((name for name in names if name not in taken), names[-1]), None

    async def enter(self, subject: str, name: str, role: Role, *, address: str, agent: str) -> str | None:
        """A session's secret for somebody whom the login provider knows; None: they are disabled here.

        They are made an operator at the first login. Another role than at the last one ends their other sessions.
        """
        async with self._records.writing() as connection:
            await _clear(connection)
            mine = operators.c.subject == subject
            found = (await connection.execute(select(operators).where(mine).with_for_update())).first()
            if found is None:
                row = {"name": name, "role": str(role), "password": "", "must_change": False, "disabled": False,
                       "created_at": now_ms(), "subject": subject}  # fmt: skip
                await connection.execute(insert(operators).values(row))
            elif found.disabled:
                return None
            elif found.role != str(role):
                await connection.execute(update(operators).where(mine).values(role=str(role)))
                await connection.execute(delete(sessions).where(sessions.c.operator == found.name))
            return (await _begin(connection, found.name if found else name, address, agent))[0]

    async def session(self, secret: str) -> Session | None:
        """Whose session this is; None where it ended, was ended, or never was."""
        now, digest = now_ms(), _digest(secret)
        query = (
            select(operators, sessions.c.seen_at, sessions.c.expires_at)
            .join(sessions, sessions.c.operator == operators.c.name)
            .where(sessions.c.digest == digest, operators.c.disabled.is_(False), _alive(now))
        )
        async with self._records.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        if now - row.seen_at > _SEEN_EVERY_MS:
            async with self._records.writing() as connection:
                await connection.execute(update(sessions).where(sessions.c.digest == digest).values(seen_at=now))
        return Session(_operator(row), digest, row.expires_at)

    async def holds(self, session: Session) -> bool:
        """Whether it has not ended since; to ask is no sign of life."""
        query = select(sessions.c.digest).where(sessions.c.digest == session.digest, _alive(now_ms()))
        async with self._records.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def log_out(self, session: Session, *, everywhere: bool) -> int:
        """End this session, or all of its operator's; how many that were."""
        which = sessions.c.operator == session.operator.name if everywhere else sessions.c.digest == session.digest
        async with self._records.writing() as connection:
            return (await connection.execute(delete(sessions).where(which))).rowcount

    # tokens

    async def make_token(self, name: str, role: Role, *, by: str, seconds: int | None) -> tuple[str, ApiToken]:
        """A new token, which nobody can be shown again, and its record. ``seconds`` None: it does not expire.

        Raises Conflict where the name is an operator's: what they do would look the same.
        """
        secret, id, now = f"cbb_{secrets.token_urlsafe(32)}", secrets.token_hex(8), now_ms()
        expires = None if seconds is None else now + seconds * 1000
        row = {"id": id, "name": name, "role": str(role), "digest": _digest(secret), "created_by": by,
               "created_at": now, "expires_at": expires}  # fmt: skip
        async with self._records.writing() as connection:
            namesake = select(operators.c.name).where(operators.c.name == name)
            if (await connection.execute(namesake)).first() is not None:
                raise Conflict(f"there is an operator {name!r} already; choose another name for the token")
            await connection.execute(insert(tokens).values(row))
        return secret, ApiToken(id, name, role, by, now, expires)

    async def tokens(self) -> list[ApiToken]:
        """Newest first; those that expired are left out."""
        alive = tokens.c.expires_at.is_(None) | (tokens.c.expires_at > now_ms())
        query = select(tokens).where(alive).order_by(tokens.c.created_at.desc(), tokens.c.id)
        async with self._records.reading() as connection:
            return [_token(row) for row in await connection.execute(query)]

    async def drop_token(self, id: str) -> ApiToken:
        """From now on nobody can use it. Raises NotFound."""
        async with self._records.writing() as connection:
            row = (await connection.execute(select(tokens).where(tokens.c.id == id))).first()
            if row is None:
                raise NotFound(f"no token {id!r}")
            await connection.execute(delete(tokens).where(tokens.c.id == id))
            return _token(row)

    async def shared_names(self) -> list[str]:
        """Names that an operator and a token have, of the settings or of an older version."""
        async with self._records.reading() as connection:
            names = list((await connection.execute(select(operators.c.name))).scalars())
            return sorted(await self._tokens_names(connection, names))

    async def callers(self) -> Mapping[bytes, tuple[Caller, int | None]]:
        """Every token's digest → whose it is, and until when."""
        async with self._records.reading() as connection:
            rows = await connection.execute(select(tokens.c.digest, tokens.c.name, tokens.c.role, tokens.c.expires_at))
            return {bytes.fromhex(row.digest): (Caller(row.name, _role(row.role)), row.expires_at) for row in rows}

    async def _tokens_names(self, connection: AsyncConnection, names: Sequence[str]) -> set[str]:
        """Those that a token has."""
        made = await connection.execute(select(tokens.c.name).where(tokens.c.name.in_(names)))
        return {*made.scalars(), *(name for name in names if name in self._taken)}

    async def _fits(self, name: str, password: str) -> str | None:
        """The hash that the password fits; None: it fits none, or is of nobody who may log in."""
        query = select(operators.c.password).where(operators.c.name == name, operators.c.disabled.is_(False))
        async with self._records.reading() as connection:
            hashed = (await connection.execute(query)).scalar_one_or_none()
        return hashed if await self.passwords.fits(password, hashed) else None


async def _clear(connection: AsyncConnection) -> None:
    """First of all in a transaction: so no other one writes beside it where the database is a file."""
    await connection.execute(delete(sessions).where(sessions.c.expires_at <= now_ms()))


async def _begin(connection: AsyncConnection, name: str, address: str, agent: str) -> tuple[str, int]:
    """The secret of a new session, and when it ends (ms)."""
    secret, now = secrets.token_urlsafe(32), now_ms()
    expires = now + SESSION_S * 1000
    agent = agent.encode(errors="replace").decode()  # a header's bytes may be no text
    row = {"digest": _digest(secret), "operator": name, "created_at": now, "seen_at": now,
           "expires_at": expires, "address": address[:64], "agent": agent[:200]}  # fmt: skip
    await connection.execute(insert(sessions).values(row))
    return secret, expires


def _alive(now: int) -> ColumnElement[bool]:
    return (sessions.c.expires_at > now) & (sessions.c.seen_at > now - IDLE_S * 1000)


def _operator(row: Any, open_: int = 0) -> Operator:
    return Operator(row.name, _role(row.role), row.must_change, row.disabled, row.created_at, open_)


def _token(row: Any) -> ApiToken:
    return ApiToken(row.id, row.name, _role(row.role), row.created_by, row.created_at, row.expires_at)


def _role(name: str) -> Role:
    return Role[name.upper()]


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
