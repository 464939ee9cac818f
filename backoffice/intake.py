"""What comes in over HTTP, read once and within limits: bodies, query parameters, headers.

Of a key that a JSON object has twice the last one counts: what is stored and handled is
written anew from what was read here, so nobody further on sees another one. Integers
beyond 64 bits are refused, because they would arrive as something else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import hdrs, web
from multidict import MultiMapping
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from backoffice.problems import Fault, Problem, invalid
from bridge.envelope import IDEMPOTENCY_KEY, MAX_DEPTH, MAX_REASON_CHARS, depth, shard_of_id
from bridge.errors import Invalid
from bridge.registry import faults as faults_of

BODY_BYTES = 1 << 20
BATCH_BYTES = 8 << 20
BODY_SECONDS = 5.0  # for a body to arrive in full
IDEMPOTENCY_HEADER = "Idempotency-Key"
_MOST_FIELDS = 50  # of a form

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_FIRST_INEXACT = 2.0**63

M = TypeVar("M", bound=BaseModel)


def _command_id(given: str) -> str:
    try:
        shard_of_id(given)
    except Invalid as error:
        raise PydanticCustomError("command_id", "{text}", {"text": str(error)}) from None
    return given


ID_PATTERN = "^[0-9]{1,5}-[0-9]{1,14}-[0-9]{1,19}$"  # as the document tells it: 14 digits of ms last for 3,000 years
CommandId = Annotated[str, AfterValidator(_command_id), WithJsonSchema({"type": "string", "pattern": ID_PATTERN})]


# A text of a few lines. The further control characters have no meaning in one, and PostgreSQL has no room for NUL.
Reason = Annotated[str, Field(max_length=MAX_REASON_CHARS, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]


class Body(BaseModel):
    """Base of request bodies: JSON's own types, and no field that nobody reads."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NoBody(Body):
    """Of a route that reads none: nothing, or an object without fields."""


class Query(BaseModel):
    """Base of query parameters: texts that are read as the field's type, each at most once."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, given: object) -> object:
        """Nothing that is kept has such characters: PostgreSQL takes no NUL, and UTF-8 has no halves of a pair."""
        if isinstance(given, str) and _NO_TEXT.search(given):
            raise PydanticCustomError("characters", "a text without NUL, in UTF-8")
        return given


class NoQuery(Query):
    """No parameter is known."""


class DryRun(Query):
    """Whether to do it."""

    dry_run: bool = Field(False, description="only say what would be done")


def check_encoding(request: web.BaseRequest) -> None:
    """Bodies are taken as they come: nothing is unpacked here, so nothing can unfold beyond its limit."""
    if hdrs.CONTENT_ENCODING in request.headers:
        raise Problem("unsupported_media_type", "Content-Encoding is not taken: send the body as it is")


async def check_no_body(request: web.BaseRequest, faults: list[Fault]) -> None:
    """What is sent to a route that takes no body is a fault, unless it says nothing. Raises Problem."""
    body = await _read(request, BODY_BYTES)
    if body:
        _check_media_type(request)
        check(NoBody, parse_json(body, nesting=MAX_DEPTH + 1), faults)


async def read_json(request: web.BaseRequest, *, limit: int = BODY_BYTES, nesting: int = MAX_DEPTH + 1) -> Any:
    """The body as JSON, at most ``nesting`` levels deep. Raises Problem."""
    _check_media_type(request)
    return parse_json(await _read(request, limit), nesting=nesting)


def parse_json(body: bytes, *, nesting: int) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("malformed", f"the body is not JSON: {error}") from None
    # Both looks are dear, and hardly any body gives a reason for them.
    if body.count(b"{") + body.count(b"[") > nesting and depth(value) > nesting:
        raise invalid([Fault("", "too_deep", f"the body nests more than {nesting} levels")])
    if _LONG_NUMBER.search(body) and (inexact := _inexact(value)):
        raise invalid(inexact)
    return value


def check(model: type[M], value: Any, faults: list[Fault], prefix: str = "") -> M | None:
    """``value`` as the model; None, with every fault added to ``faults``, if it does not fit."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults.extend(Fault(*fault) for fault in faults_of(error, prefix))
        return None


def check_query(model: type[M], request: web.Request, faults: list[Fault]) -> M | None:
    """The query parameters as the model; None, with every fault added to ``faults``, if they do not fit."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            faults.append(Fault(f"?{name}", "repeated", "the parameter is given more than once"))
        given[name] = value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults.extend(Fault(f"?{path[1:]}", code, message) for path, code, message in faults_of(error))
        return None


def idempotency_key(headers: MultiMapping[str], faults: list[Fault]) -> str | None:
    """The header's value, None if it is absent; a bad one is added to ``faults``."""
    key, *more = headers.getall(IDEMPOTENCY_HEADER, (None,))
    if more:
        faults.append(Fault(f":{IDEMPOTENCY_HEADER}", "repeated", "the header is given more than once"))
        return None
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        faults.append(Fault(f":{IDEMPOTENCY_HEADER}", "invalid", "write 1-200 visible ASCII characters"))
        return None
    return key


def _check_media_type(request: web.BaseRequest) -> None:
    given = request.headers.get(hdrs.CONTENT_TYPE, "")
    if given == "application/json":
        return
    charset = request.charset
    if request.content_type != "application/json" or (charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem("unsupported_media_type", f"Content-Type is {given[:80]!r}; send application/json, UTF-8")


async def _read(request: web.BaseRequest, limit: int) -> bytes:
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    content = request.content
    try:
        if content.is_eof():  # the usual case: it came with the headers
            body = content.read_nowait()
            if len(body) > limit:
                raise _too_large(limit)
            return body
        async with asyncio.timeout(BODY_SECONDS):
            return await _gather(request, limit)
    except TimeoutError:
        raise Problem("timeout", f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except web.RequestPayloadError as error:
        raise Problem("malformed", "the body is not framed as its headers say") from error


async def read_form(request: web.Request, limit: int) -> Mapping[str, str]:
    """The fields of a form that a page has sent; of two with one name the last. Raises Problem."""
    check_encoding(request)
    if request.content_type != "application/x-www-form-urlencoded":
        raise Problem("unsupported_media_type", "send a form")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem("malformed", "the form cannot be read: write it in UTF-8")
    body = await _read(request, limit)
    if body.count(b"&") >= _MOST_FIELDS:
        raise Problem("too_large", f"a form has at most {_MOST_FIELDS} fields")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    except UnicodeDecodeError:
        raise Problem("malformed", "the form cannot be read: write it in UTF-8") from None


async def _gather(request: web.BaseRequest, limit: int) -> bytes:
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> Problem:
    return Problem("too_large", f"the body is over {limit} bytes")


def _inexact(value: Any, path: str = "") -> list[Fault]:
    """Where numbers stand that 64 bits do not hold; ``value`` nests within its limit."""
    if isinstance(value, float):
        return [Fault(path, "number_too_large", "integers have 64 bits")] if abs(value) >= _FIRST_INEXACT else []
    if isinstance(value, dict):
        parts = [(key.replace("~", "~0").replace("/", "~1"), part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(str(index), part) for index, part in enumerate(value)]
    else:
        return []
    return [fault for key, part in parts for fault in _inexact(part, f"{path}/{key}")]
