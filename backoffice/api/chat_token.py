"""Chat tokens for whoever tries the demo; there only where the demo handed over the nodes' key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import Field

from backoffice.intake import Query
from backoffice.operators import Role
from backoffice.routes import Call, Deed, Route, reply
from backoffice.times import time_of

TOKEN_SECONDS = 12 * 3600


class WhoQuery(Query):
    """Whose token."""

    user: str = Field(pattern=r"^[A-Za-z0-9._@+-]{1,64}$")


@dataclass(frozen=True, slots=True)
class ChatToken:
    """What a chat client sends in its first frame."""

    token: str
    expires_at: datetime


def routes(key: str) -> tuple[Route, ...]:
    secret = OctKey.import_key(key)

    async def issue(call: Call[WhoQuery, None]) -> web.Response:
        """A token with which a chat client is this user; the audit chain tells who has made it."""
        expires = int(time.time()) + TOKEN_SECONDS
        async with call.audited(Deed("chat_token.issue", f"user:{call.query.user}")):
            token = jwt.encode({"alg": "HS256"}, {"sub": call.query.user, "exp": expires}, secret)
        return reply(ChatToken(token, time_of(expires * 1000)))

    return (Route("GET", "/chat-token", issue, Role.ADMIN, {200: ChatToken}, query=WhoQuery),)
