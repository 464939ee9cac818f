"""Options that commands of the command line share, and how what they name is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8080"

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[str, typer.Option("--url", envvar="BACKOFFICE_URL", help="Where the back office is.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="BACKOFFICE_TOKEN", show_default=False,
                 help="Who you are to it; file:PATH reads it from a file."),
]  # fmt: skip


def secret(given: str) -> str:
    """What was given, or what the file that it names holds."""
    return read(Path(given.removeprefix("file:"))) if given.startswith("file:") else given


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}.") from None
