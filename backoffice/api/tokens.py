"""API tokens: made, listed, dropped. A token is shown once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from aiohttp import web
from pydantic import Field

from backoffice.api.session import RoleName, role_name
from backoffice.intake import Body, NoQuery
from backoffice.operators import NAME, Role
from backoffice.paging import Paged, cut
from backoffice.people import ApiToken
from backoffice.problems import not_found
from backoffice.routes import ACCESS, Call, Deed, ListOf, Route, reply
from backoffice.times import time_of, time_or_none

MAX_SECONDS = 10 * 366 * 86_400


class TokenIn(Body):
    """A token to make."""

    name: Annotated[str, Field(pattern=f"^{NAME}$", description="becomes issued_by of what it issues")]
    role: RoleName
    expires_in: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token, without the token itself, which nobody keeps."""

    id: str
    name: str
    role: RoleName
    created_by: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class TokenMade(TokenView):
    """A token that was just made. It is not shown again."""

    token: str


async def listing(call: Call[Paged, None]) -> web.Response:
    """Tokens that were made here, by id; those of the settings are not among them."""
    found = sorted(map(_view, await call.request.app[ACCESS].people.tokens()), key=lambda token: token.id)
    return reply(cut(found, call.query, lambda token: token.id, str))


async def make(call: Call[NoQuery, TokenIn]) -> web.Response:
    """Make a token."""
    wanted, access = call.body, call.request.app[ACCESS]
    deed = Deed("tokens.make", f"token:{wanted.name}", detail=wanted.model_dump())
    async with call.audited(deed):
        role = Role[wanted.role.upper()]
        secret, made = await access.people.make_token(wanted.name, role, by=call.caller.name, seconds=wanted.expires_in)
        deed.result = f"done {made.id}"
    await access.step()
    view = _view(made)
    return reply(TokenMade(view.id, view.name, view.role, view.created_by, view.created_at, view.expires_at, secret),
                 201)  # fmt: skip


async def drop(call: Call[NoQuery, None]) -> web.Response:
    """Take a token away; whoever uses it is refused within a second."""
    id, access = call.part("id"), call.request.app[ACCESS]
    if not id.isalnum():  # none is called that, and not every database can look for it
        raise not_found(f"token {id[:64]!r}")
    async with call.audited(Deed("tokens.drop", f"token:{id[:64]}")):
        dropped = await access.people.drop_token(id)
    await access.step()
    return reply(_view(dropped))


def _view(token: ApiToken) -> TokenView:
    return TokenView(token.id, token.name, role_name(token.role), token.created_by, time_of(token.created_at),
                     time_or_none(token.expires_at))  # fmt: skip


ROUTES = (
    Route("GET", "/tokens", listing, Role.ADMIN, {200: ListOf(TokenView)}, query=Paged),
    Route("POST", "/tokens", make, Role.ADMIN, {201: TokenMade}, body=TokenIn, problems=("conflict",)),
    Route("DELETE", "/tokens/{id}", drop, Role.ADMIN, {200: TokenView}, problems=("not_found",)),
)
