"""``chatbridge audit verify``, ``archive`` and ``replay``: the back office's record, checked, kept, issued again."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from bridge.chain import Entry, Verifier
from bridge.cli_options import DEFAULT_URL, Json, Token, Url, token_of
from bridge.errors import Misconfigured
from bridge.printing import print_json

if TYPE_CHECKING:
    from bridge.rest import RestApi

_BATCH = 500  # commands a call
_TOLD_EVERY = 10_000  # entries between two lines of progress

audit = typer.Typer(help="The audit chain.", no_args_is_help=True)


class What(StrEnum):
    """What can be archived."""

    COMMANDS = "commands"
    AUDIT = "audit"
    DEAD = "dead"


class Form(StrEnum):
    """How."""

    JSONL = "jsonl"
    CSV = "csv"


@audit.command()
def verify(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Follow every chain from its first entry to its last; exit status 1 where one does not hold."""
    verifier = asyncio.run(_verify(url, token_of(token)))
    if as_json:
        print_json({
            "ok": not verifier.broken,
            "chains": [{"chain": name, "entries": seq, "hash": hash} for name, (seq, hash) in verifier.heads.items()],
            "broken": [{"chain": each.chain, "seq": each.seq, "what": each.what} for each in verifier.broken],
        })  # fmt: skip
    else:
        for name, (seq, hash) in verifier.heads.items():
            print(f"{name}: {seq} entries, the last is {hash}")
        for each in verifier.broken:
            print(f"{each.chain}: entry {each.seq}: {each.what}")
        print("does NOT hold" if verifier.broken else "holds")
    if verifier.broken:
        raise typer.Exit(1)


def archive(
    what: Annotated[What, typer.Argument(help="Of the record.")],
    file: Annotated[Path, typer.Argument(help="To write; it must not be there yet.", show_default=False)],
    form: Annotated[Form, typer.Option("--format", help="Of the file.")] = Form.JSONL,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Write everything to a file, which is there only once it is whole."""
    if file.exists():
        raise typer.BadParameter(f"{file} is there already; name another file.")
    lines = asyncio.run(_archive(url, token_of(token), what, form, file))
    print(f"{lines} lines in {file}")


def replay(
    file: Annotated[Path, typer.Argument(help="An archive of commands, in lines of JSON.", show_default=False,
                                         exists=True, dir_okay=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:  # fmt: skip
    """Issue the commands of an archive again, the oldest first, each once: a second replay of it does nothing."""
    commands = _archived(file)
    if dry_run:
        print(f"would issue {len(commands)} commands")
        return
    counts = asyncio.run(_replay(url, token_of(token), commands))
    print(", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to do")
    if counts["refused"]:
        raise typer.Exit(1)


def _archived(file: Path) -> list[dict[str, Any]]:
    try:
        rows = [orjson.loads(line) for line in file.read_bytes().splitlines() if line]
        rows.sort(key=lambda row: (row["issued_at"], row["id"]))
        return [
            {"type": row["type"], "subject": row["subject"], "payload": row["payload"], "reason": row["reason"],
             "idempotency_key": f"replay-{row['id']}"}
            for row in rows
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise typer.BadParameter(f"{file} is no archive of commands in lines of JSON ({error}).") from None


async def _replay(url: str, token: str, commands: list[dict[str, Any]]) -> dict[str, int]:
    from bridge.rest import RestApi

    counts = {"issued": 0, "issued before": 0, "refused": 0}
    async with RestApi.connect(url, token) as api:
        for start in range(0, len(commands), _BATCH):
            batch = commands[start : start + _BATCH]
            answer = await api.call("POST", "/commands/batch", {"commands": batch}, wait_s=60)
            for command, result in zip(batch, answer["results"], strict=True):
                status = result["status"]
                counts["issued" if status == 202 else "issued before" if status == 200 else "refused"] += 1
                if status >= 300:
                    problem = result["problem"]
                    sys.stderr.write(f"{command['idempotency_key'].removeprefix('replay-')}: {problem['detail']}\n")
            sys.stderr.write(f"{start + len(batch)} of {len(commands)} …\n")
    return counts


async def _verify(url: str, token: str) -> Verifier:
    from bridge.rest import RestApi

    verifier, count = Verifier(), 0
    async with RestApi.connect(url, token) as api:
        heads = await _heads(api)  # first, as the chains go on
        async for line in api.lines("/export", query={"what": "audit"}):
            verifier.look(_entry(orjson.loads(line)))
            count += 1
            if count % _TOLD_EVERY == 0:
                sys.stderr.write(f"{count} entries …\n")
    reached = {name: seq for name, (seq, _) in verifier.heads.items()}
    # A chain that went on since has its older head within; only one that ends before it was cut.
    verifier.end(
        (head["chain"], head["seq"], head["hash"]) for head in heads if reached.get(head["chain"], 0) <= head["seq"]
    )
    return verifier


async def _heads(api: RestApi) -> list[dict[str, Any]]:
    heads: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 500}
    while True:
        page = await api.call("GET", "/audit/heads", query=query)
        heads += page["items"]
        if page["next_cursor"] is None:
            return heads
        query["cursor"] = page["next_cursor"]


async def _archive(url: str, token: str, what: What, form: Form, file: Path) -> int:
    from bridge.rest import RestApi

    lines, part = 0, file.with_name(f"{file.name}.part")
    try:
        async with RestApi.connect(url, token) as api:
            with part.open("wb") as out:
                async for line in api.lines("/export", query={"what": str(what), "format": str(form)}):
                    out.write(line + b"\n")
                    lines += 1
                    if lines % _TOLD_EVERY == 0:
                        sys.stderr.write(f"{lines} lines …\n")
                out.flush()
                os.fsync(out.fileno())
        part.rename(file)
    except OSError as error:
        raise Misconfigured(f"cannot write {file}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    return lines


def _entry(item: dict[str, Any]) -> Entry:
    """As it was hashed."""
    at = datetime.fromisoformat(item["at"])
    ms = int(at.timestamp()) * 1000 + at.microsecond // 1000
    values = {**item, "at": ms, "detail": orjson.dumps(item["detail"]).decode()}
    return Entry(*(values[name] for name in Entry._fields))
