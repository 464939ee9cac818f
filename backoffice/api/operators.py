"""Operators: who may log in, and with which role."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from backoffice.api.session import RoleName, role_name
from backoffice.intake import Body, NoQuery
from backoffice.operators import NAME, Role
from backoffice.paging import Paged, cut
from backoffice.passwords import MAX_CHARS, MIN_CHARS, new_password
from backoffice.people import Operator
from backoffice.problems import Problem, not_found
from backoffice.routes import ACCESS, PREFIX, Call, Deed, ListOf, Route, reply
from backoffice.times import time_of

Password = Annotated[str, Field(min_length=MIN_CHARS, max_length=MAX_CHARS)]


class OperatorIn(Body):
    """An operator to make."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    role: RoleName
    password: Password | None = Field(None, description="made up if absent; it has to be changed at the first login")


# As the document tells it: at least one of them, and not two passwords.
_SOMETHING: dict[str, Any] = {
    "anyOf": [
        *({"required": [name], "properties": {name: {"not": {"type": "null"}}}}
          for name in ("role", "disabled", "password")),
        {"required": ["new_password"], "properties": {"new_password": {"const": True}}},
    ],
    "not": {"required": ["password", "new_password"],
            "properties": {"password": {"type": "string"}, "new_password": {"const": True}}},
}  # fmt: skip


class OperatorChange(Body):
    """What to change; their sessions end."""

    model_config = ConfigDict(json_schema_extra=_SOMETHING)

    role: RoleName | None = None
    disabled: bool | None = None
    password: Password | None = Field(None, description="it has to be changed at the next login")
    new_password: bool = Field(False, description="make a password up")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.role is None and self.disabled is None and self.password is None and not self.new_password:
            raise PydanticCustomError("nothing", "give role, disabled, password or new_password")
        if self.password is not None and self.new_password:
            raise PydanticCustomError("two_passwords", "give password or new_password, not both")
        return self


@dataclass(frozen=True, slots=True)
class OperatorView:
    """Somebody who may log in."""

    name: str
    role: RoleName
    disabled: bool
    must_change_password: bool
    sessions: int  # how many are open
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OperatorMade(OperatorView):
    """An operator, and the password that was made up for them; it is not shown again."""

    password: str | None


async def listing(call: Call[Paged, None]) -> web.Response:
    """Operators by name."""
    found = [_view(each) for each in await call.request.app[ACCESS].people.all()]
    return reply(cut(found, call.query, lambda operator: operator.name, str))


async def add(call: Call[NoQuery, OperatorIn]) -> web.Response:
    """Make an operator."""
    wanted = call.body
    password = wanted.password or new_password()
    people = call.request.app[ACCESS].people
    with people.passwords.place():
        async with call.audited(Deed("operators.add", f"operator:{wanted.name}", detail={"role": wanted.role})):
            made = await people.add(wanted.name, Role[wanted.role.upper()], password)
    return reply(_made(made, None if wanted.password else password), 201)


async def change(call: Call[NoQuery, OperatorChange]) -> web.Response:
    """Change an operator's role, password, or whether they may log in; not one's own password."""
    wanted, name = call.body, call.part("name")
    if not re.fullmatch(NAME, name):  # nobody has it, and not every database can look for it
        raise not_found(f"operator {name[:64]!r}")
    password = new_password() if wanted.new_password else wanted.password
    if password is not None and call.session is not None and call.session.operator.name == name:
        # The session would end before they could read it.
        raise Problem("conflict", f"choose your own password with POST {PREFIX}/session/password")
    detail = {"role": wanted.role, "disabled": wanted.disabled, "password": password is not None}
    people = call.request.app[ACCESS].people
    with people.passwords.place() if password is not None else nullcontext():
        async with call.audited(Deed("operators.change", f"operator:{name[:64]}", detail=detail)):
            changed = await people.change(
                name,
                role=None if wanted.role is None else Role[wanted.role.upper()],
                disabled=wanted.disabled,
                password=password,
            )
    return reply(_made(changed, password if wanted.new_password else None))


def _view(operator: Operator) -> OperatorView:
    return OperatorView(operator.name, role_name(operator.role), operator.disabled, operator.must_change,
                        operator.sessions, time_of(operator.created_at))  # fmt: skip


def _made(operator: Operator, password: str | None) -> OperatorMade:
    return OperatorMade(operator.name, role_name(operator.role), operator.disabled, operator.must_change,
                        operator.sessions, time_of(operator.created_at), password)  # fmt: skip


ROUTES = (
    Route("GET", "/operators", listing, Role.ADMIN, {200: ListOf(OperatorView)}, query=Paged),
    Route("POST", "/operators", add, Role.ADMIN, {201: OperatorMade}, body=OperatorIn, deadline_s=None,
          problems=("conflict", "overloaded")),
    Route("PATCH", "/operators/{name}", change, Role.ADMIN, {200: OperatorMade}, body=OperatorChange, deadline_s=None,
          problems=("not_found", "conflict", "overloaded")),
)  # fmt: skip
