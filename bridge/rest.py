"""The back office's REST API, as its callers see it: one call, its answer or one line that says why not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp

from bridge.errors import BridgeError, Misconfigured

PREFIX = "/api/v1"
ANSWER_S = 10.0  # on top of what a call asks to wait for


class NotAnswered(BridgeError):
    """Nobody answered; a call that changes something may have been carried out."""


class Refused(BridgeError):
    """The back office answered with a problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, problem
        self.code = str(problem.get("code", status))
        super().__init__(_explain(status, problem))


class RestApi:
    """Calls of one caller. Made by ``connect``; paths are below /api/v1."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session, self._url, self._token = session, url.rstrip("/"), token

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, token: str) -> AsyncIterator[Self]:
        async with aiohttp.ClientSession() as session:
            yield cls(session, url, token)

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0,
    ) -> Any:
        """The answer's JSON. Raises Refused, NotAnswered, or Misconfigured for a URL or token that cannot be used."""
        try:
            async with self._session.request(
                method,
                self._url + PREFIX + path,
                json=body,
                params=query,
                headers={"Authorization": f"Bearer {self._token}", **(headers or {})},
                timeout=aiohttp.ClientTimeout(wait_s + ANSWER_S),
            ) as response:
                answer = await self._read(response)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise Misconfigured(f"{self._url!r} is no URL of a back office; write http://HOST:PORT") from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            cause = str(error) or "time-out"
            raise NotAnswered(f"no back office answers at {self._url} ({cause}); is it there?") from None
        except ValueError as error:  # a token that does not fit into a header
            raise Misconfigured(f"the token cannot be sent: {error}") from None
        if response.status >= 400:
            raise Refused(response.status, answer)
        return answer

    async def lines(self, path: str, *, query: Mapping[str, str | int] | None = None) -> AsyncIterator[bytes]:
        """A file of lines, as they come. Raises as ``call`` does; a file that breaks off raises NotAnswered."""
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with self._session.get(
                self._url + PREFIX + path,
                params=query,
                headers=headers,
                timeout=aiohttp.ClientTimeout(sock_read=ANSWER_S),
            ) as response:
                if response.status >= 400:
                    raise Refused(response.status, await self._read(response))
                rest = b""
                async for chunk in response.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
                if rest:
                    yield rest
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise NotAnswered(f"{self._url} broke off ({str(error) or 'time-out'})") from None

    async def _read(self, response: aiohttp.ClientResponse) -> Any:
        if response.content_type in ("application/json", "application/problem+json"):
            return await response.json(content_type=None)
        raise NotAnswered(f"{self._url} answers with {response.content_type}: this is no back office")


def _explain(status: int, problem: Mapping[str, Any]) -> str:
    faults = [f"{fault['path']}: {fault['message']}" for fault in problem.get("errors", ()) if fault.get("path")]
    text = "; ".join(faults) or str(problem.get("detail") or problem.get("title") or "no reason given")
    return f"{text} ({status} {problem.get('code', '')})"
