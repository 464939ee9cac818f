"""Broadcasts: shown to whoever is there, or told to every node; kept by nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import Field

from backoffice.intake import Body, NoQuery
from backoffice.operators import Caller, Role
from backoffice.problems import Fault, invalid
from backoffice.routes import Call, Deed, Route, reply
from bridge.chat.events import check_broadcast
from bridge.errors import InvalidPayload, UnknownType


class BroadcastIn(Body):
    """A broadcast to send."""

    type: Annotated[str, Field(max_length=64)]
    scope: Annotated[str, Field(pattern=r"^(all|room:[A-Za-z0-9._@+-]{1,64})$", description='"all" or "room:ID"')]
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """Where the broadcast stands on its channel."""

    channel: str
    epoch: str
    offset: int


async def send(call: Call[NoQuery, BroadcastIn]) -> web.Response:
    """Send a broadcast to everyone or to a room."""
    wanted = call.body
    faults, payload = _check(wanted.type, wanted.payload)
    if faults:
        raise invalid(faults)
    deed = Deed("broadcasts.send", wanted.scope, detail={"type": wanted.type, "payload": payload})
    async with call.audited(deed):
        channel, position = await call.bridge.broadcast(wanted.type, wanted.scope, payload)
        deed.result = f"done {channel} {position.offset}"
    return reply(Sent(channel, position.epoch, position.offset), 202)


def explain(_route: Route, _request: web.Request, _caller: Caller, raw: Any) -> list[Fault]:
    """What else is wrong with a broadcast that is refused for its shape."""
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str) or not isinstance(raw.get("payload"), dict):
        return []
    return _check(raw["type"], raw["payload"])[0]


def _check(type_: str, payload: dict[str, Any]) -> tuple[list[Fault], dict[str, Any]]:
    try:
        return [], check_broadcast(type_, orjson.dumps(payload))
    except UnknownType:
        return [Fault("/type", "unknown_type", f"unknown broadcast type {type_[:80]!r}")], {}
    except InvalidPayload as error:
        return [Fault(f"/payload{path}", code, message) for path, code, message in error.faults], {}


ROUTES = (
    Route("POST", "/broadcasts", send, Role.OPERATOR, {202: Sent}, body=BroadcastIn, explain=explain,
          problems=("unknown_type",)),
)  # fmt: skip
