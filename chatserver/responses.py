"""Answers to plain HTTP requests, on the port that clients use."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

JSON: Final = "application/json"


def respond(
    request: Request, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Response:
    """One answer, after which the connection is closed. HEAD gets its headers only."""
    given = Headers({
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
    })  # fmt: skip
    for name, value in (headers or {}).items():
        if name in given:
            del given[name]
        given[name] = value
    return Response(status, HTTPStatus(status).phrase, given, b"" if request.method == "HEAD" else body)


def respond_json(request: Request, status: int, body: object, headers: Mapping[str, str] | None = None) -> Response:
    return respond(request, status, JSON, orjson.dumps(body), headers)
