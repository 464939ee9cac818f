"""Problem documents (RFC 9457): the codes, and what each error of the bridge becomes. No other form of error leaves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDict, istr

from backoffice.records import RecordsUnavailable
from bridge.errors import (
    BridgeError,
    Conflict,
    IdempotencyMismatch,
    Invalid,
    InvalidPayload,
    NotFound,
    NotRecorded,
    NotReplicated,
    NotTaken,
    Overloaded,
    Replaying,
    ServerFull,
    TooLarge,
    UnknownType,
    Unreachable,
)

CONTENT_TYPE = "application/problem+json"
RETRY_UNREACHABLE_S = 1
RETRY_FULL_S = 5

# code → (status, title)
CODES: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request cannot be read"),
    "unauthorized": (401, "A valid bearer token is needed"),
    "forbidden": (403, "The caller's role does not allow this"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "This resource does not have that method"),
    "timeout": (408, "The request took too long to arrive"),
    "conflict": (409, "It is past the point where this could be done"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "Send application/json without Content-Encoding"),
    "expectation_failed": (417, "Only the expectation 100-continue is known"),
    "invalid": (422, "The request breaks the rules"),
    "unknown_type": (422, "The type is not known everywhere"),
    "idempotency_mismatch": (422, "The idempotency key belongs to another request"),
    "overloaded": (429, "Too much is waiting"),
    "rate_limited": (429, "Too many tries"),
    "internal": (500, "Something broke here"),
    "unavailable": (503, "Redis, or the back office's database, is not available"),
    "not_replicated": (503, "Not enough replicas have the command yet"),
}

_OWN_CODE = ("unknown_type", "idempotency_mismatch")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request."""

    path: str  # JSON pointer into the body, "?name" a query parameter, ":name" a header
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ProblemDocument:
    """Why a request failed (RFC 9457)."""

    type: str  # "/problems/" and the code
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: tuple[Fault, ...]  # every fault that was found


class Problem(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        faults: Iterable[Fault] = (),
        headers: Mapping[istr, str] | None = None,
        doubt: str | None = None,
        **members: Any,
    ) -> None:
        """``doubt``: why nobody knows whether what was asked for was done; None: it was not."""
        super().__init__(detail)
        self.code, self.detail, self.faults, self.doubt = code, detail, tuple(faults), doubt
        self.status, self.title = CODES[code]
        self.headers = dict(headers or {})
        if self.status == 401:
            self.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        self.members = members  # further members of the document, such as idempotency_key

    @property
    def result(self) -> str:
        """What the audit chain tells of a deed that ended so."""
        return f"failed {self.code}" if self.doubt is None else f"unknown: {self.doubt}"

    def document(self, request_id: str) -> dict[str, Any]:
        return {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            "errors": self.faults,
            **self.members,
        }

    def response(self, request_id: str) -> web.Response:
        headers = CIMultiDict({**self.headers, hdrs.CONTENT_TYPE: CONTENT_TYPE})
        return web.Response(status=self.status, body=orjson.dumps(self.document(request_id)), headers=headers)


def invalid(faults: Iterable[Fault], **members: Any) -> Problem:
    """One problem for all faults of a request; there is at least one. Some faults have a code of their own."""
    faults = tuple(faults)
    code = next((fault.code for fault in faults if fault.code in _OWN_CODE), "invalid")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    first = faults[0]
    return Problem(code, f"{first.path}: {first.message}{more}" if first.path else first.message + more,
                   faults=faults, **members)  # fmt: skip


def not_found(what: str) -> Problem:
    return Problem("not_found", f"there is no {what}")


def retry(code: str, detail: str, after_s: float, **members: Any) -> Problem:
    """A problem that time may heal, with Retry-After in whole seconds, at least one."""
    return Problem(code, detail, headers={hdrs.RETRY_AFTER: str(max(1, math.ceil(after_s)))}, **members)


def from_error(error: BridgeError, *, prefix: str = "", **members: Any) -> Problem:
    """The problem that an error of the bridge is to the caller; ``prefix`` leads to the command in the body."""
    match error:
        case Invalid():
            return _from_invalid(error, prefix, members)
        case NotFound():
            return Problem("not_found", str(error), **members)
        case Conflict():
            return Problem("conflict", str(error), **members)
        case Overloaded():
            return retry("overloaded", str(error), error.retry_after_s, **members)
        case ServerFull():
            return retry("unavailable", str(error), RETRY_FULL_S, **members)
        case Replaying():
            return retry("unavailable", str(error), error.retry_after_s, **members)
        case NotReplicated():
            return retry("not_replicated", str(error), RETRY_UNREACHABLE_S, doubt="not_replicated", **members)
        case NotRecorded():
            return retry("unavailable", f"{error}; repeat it with the same key", RETRY_FULL_S, doubt="not_recorded",
                         **members)  # fmt: skip
        case NotTaken():
            return unreachable(doubt=None, **members)
        case Unreachable():
            return unreachable(**members)
        case RecordsUnavailable():
            return retry("unavailable", "the back office's database does not answer; nothing was done",
                         RETRY_UNREACHABLE_S, **members)  # fmt: skip
        case _:  # an answer of Redis for which there is no rule: loading, busy, a server that lost its role
            return retry("unavailable", "Redis cannot serve this now", RETRY_UNREACHABLE_S, **members)


def unreachable(*, doubt: str | None = "Redis did not answer", **members: Any) -> Problem:
    detail = "Redis did not answer in time"
    if "idempotency_key" in members:
        detail += "; whether the command was accepted is unknown: repeat it with the same idempotency key"
    return retry("unavailable", detail, RETRY_UNREACHABLE_S, doubt=doubt, **members)


def _from_invalid(error: Invalid, prefix: str, members: dict[str, Any]) -> Problem:
    message = str(error)
    match error:
        case InvalidPayload():
            faults = [Fault(f"{prefix}/payload{path}", code, text) for path, code, text in error.faults]
            return invalid(faults, **members)
        case UnknownType():
            fault = Fault(f"{prefix}/type", "unknown_type", message)
            return invalid([fault], nodes=error.nodes, **members)
        case IdempotencyMismatch():
            where = f"{prefix}/idempotency_key" if prefix else ":Idempotency-Key"
            fault = Fault(where, "idempotency_mismatch", message)
            return invalid([fault], **members)
        case TooLarge():
            return Problem("too_large", message, faults=[Fault(f"{prefix}/payload", "too_large", message)], **members)
        case _:
            return invalid([Fault(prefix + error.path, "invalid", message)], **members)
