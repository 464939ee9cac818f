"""Around every request: its id, its count, and that whatever goes wrong leaves as a problem document."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable
from time import perf_counter

import structlog
from aiohttp import hdrs, web
from multidict import istr

from backoffice.metrics import Metrics
from backoffice.problems import Problem, from_error
from backoffice.routes import LABEL, REQUEST_ID
from bridge.errors import BridgeError

REQUEST_ID_HEADER = istr("X-Request-Id")
_CONTENT_TYPE_OPTIONS = istr("X-Content-Type-Options")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=@:-]{1,128}", re.ASCII)

# HTTP errors that aiohttp answers by itself.
_STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type",
                 417: "expectation_failed"}  # fmt: skip

log = structlog.get_logger(__name__)

Inner = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Frame:
    """Wraps aiohttp's own request handler, so that routing and its errors happen inside."""

    def __init__(self, inner: Inner, nowhere: Inner, metrics: Metrics) -> None:
        """``nowhere``: answers what ``inner`` does not know, or raises HTTPNotFound."""
        self._inner, self._nowhere, self._metrics = inner, nowhere, metrics
        self._boot, self._serial = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        request[REQUEST_ID] = request_id = self._request_id(request)
        response = await self._answer(request, request_id)
        if not response.prepared:
            headers = response.headers
            headers[REQUEST_ID_HEADER] = request_id
            headers[hdrs.SERVER] = "backoffice"
            headers[_CONTENT_TYPE_OPTIONS] = "nosniff"
            headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        self._metrics.answered(request.get(LABEL, "none"), response.status, perf_counter() - started)
        return response

    async def _answer(self, request: web.Request, request_id: str) -> web.StreamResponse:
        try:
            try:
                return await self._inner(request)
            except web.HTTPNotFound:
                return await self._nowhere(request)
        except Problem as problem:
            if problem.status == 403:
                log.warning("forbidden", request_id=request_id, path=request.path, detail=problem.detail)
            return _closing(problem.response(request_id), problem)
        except web.HTTPException as error:
            return _from_http(error).response(request_id) if error.status >= 400 else error
        except BridgeError as error:
            return from_error(error).response(request_id)
        except ConnectionError:
            raise  # the caller is gone
        except Exception:
            log.exception("request failed", request_id=request_id, method=request.method, path=request.path)
            return Problem("internal", f"the log tells more under {request_id}").response(request_id)

    def _request_id(self, request: web.Request) -> str:
        """The caller's own, if it can be repeated safely, otherwise one that no other request has."""
        given = request.headers.get(REQUEST_ID_HEADER)
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._boot}-{next(self._serial)}"


def _closing(response: web.Response, problem: Problem) -> web.Response:
    """Nobody waits for the rest of a body that took too long."""
    if problem.code == "timeout":
        response.force_close()
    return response


def _from_http(error: web.HTTPException) -> Problem:
    code = _STATUS_CODES.get(error.status, "internal" if error.status >= 500 else "malformed")
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Problem(code, f"use {allowed}", headers={hdrs.ALLOW: allowed})
        case web.HTTPNotFound():
            return Problem(code, "there is no such path")
        case _:
            return Problem(code, error.reason)
