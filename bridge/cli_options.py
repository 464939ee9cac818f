"""Options that commands of the command line share, how what they name is read, and the call that they make."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

DEFAULT_URL = "http://127.0.0.1:8080"

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option("--url", envvar="BACKOFFICE_URL", help="Where the back office is.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="BACKOFFICE_TOKEN", show_default=False,
                 help="Who you are to it; file:PATH reads it from a file."),
]  # fmt: skip

Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="At most so many.")]
OfShard = Annotated[int | None, typer.Option("--shard", min=0, help="Only this shard.")]


def call(url: str, token: str | None, method: str, path: str, body: Mapping[str, Any] | None = None, **how: Any) -> Any:
    """One call of the REST API, and its answer. Raises BridgeError."""
    from bridge.rest import RestApi

    own = token_of(token)

    async def ask() -> Any:
        async with RestApi.connect(url, own) as api:
            return await api.call(method, path, body, **how)

    return asyncio.run(ask())


def token_of(given: str | None) -> str:
    if not given:
        raise typer.BadParameter("no token; give --token, or set BACKOFFICE_TOKEN.")
    return secret(given)


def secret(given: str) -> str:
    """What was given, or what the file that it names holds."""
    return read(Path(given.removeprefix("file:"))) if given.startswith("file:") else given


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}.") from None


def given(**options: Any) -> dict[str, Any]:
    """Those that were."""
    return {name: value for name, value in options.items() if value is not None}


def json_object(text: str, what: str) -> dict[str, Any]:
    """``text``, or what standard input has where it is ``-``; ``what`` it is of, for the complaint."""
    try:
        value = json.loads(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise typer.BadParameter(f"{what} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f'{what} is no JSON object, such as {{"user": "u7"}}.')
    return value


def quoted(part: str) -> str:
    """For a path."""
    return quote(part, safe="")
