"""The ``chatbridge`` command: what operators do from a shell.

What changes something goes through the back office's REST API, where it is authorised; what
only looks at nodes, shards and pending entries reads Redis. Exit status: 0 ok, 1 failed, 2 misused.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from bridge.cli_chat import put_load, ws_probe
from bridge.cli_dead import dead
from bridge.cli_options import DEFAULT_URL, Json, Limit, OfShard, Token, Url, call, json_object, quoted
from bridge.cli_records import archive, audit, replay
from bridge.cli_settings import config
from bridge.cli_tail import tail
from bridge.errors import BridgeError, Misconfigured
from bridge.printing import print_command, print_findings, print_json, print_list, print_table, text

if TYPE_CHECKING:
    from bridge.client import Bridge

T = TypeVar("T")

app = typer.Typer(
    help="Operators' commands to a fleet of chat server nodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dead, name="dead")
app.command("ws-probe")(ws_probe)
app.command("load")(put_load)
app.command("archive")(archive)
app.command("replay")(replay)
app.command("tail")(tail)
app.add_typer(config, name="config")
app.add_typer(audit, name="audit")


def main() -> None:
    """Run the command line; every error that has a name leaves as one line."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.Abort:
        sys.exit(1)
    except typer.TyperException as misuse:
        command = getattr(getattr(misuse, "ctx", None), "command_path", "chatbridge")
        _end(f"{misuse.format_message().rstrip('.')}. See: {command} --help", misuse.exit_code)
    except Misconfigured as error:
        _end(str(error), 2)
    except BridgeError as error:
        _end(str(error), 1)


@app.command()
def demo(
    nodes: Annotated[int, typer.Option(min=1, max=26, help="How many chat nodes.")] = 3,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of the back office; 0 = a free one.")] = 8080,
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep data here; by default in a folder removed at exit.")
    ] = None,
    bots: Annotated[bool, typer.Option("--bots/--no-bots", help="A few users who chat.")] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Start killed nodes again.")] = False,
    ready_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Written, as JSON, once everything serves.")
    ] = None,
) -> None:
    """Serve everything on this machine: server, chat nodes, back office, bots; until Ctrl-C."""
    from bridge.demo import Options, serve

    asyncio.run(serve(Options(nodes, port, data, bots, restart, ready_file)))


@app.command()
def publish(
    type: Annotated[str, typer.Argument(help="Such as member.mute.", show_default=False)],
    subject: Annotated[str, typer.Argument(help="Such as room:lobby.", show_default=False)],
    payload: Annotated[str, typer.Argument(help="A JSON object; - reads it from standard input.")] = "{}",
    reason: Annotated[str | None, typer.Option(help="Why, for those who read about it later.")] = None,
    expires_in: Annotated[int | None, typer.Option(help="Seconds; then it is not begun any more.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: repeating it does nothing twice.")] = None,
    wait: Annotated[float, typer.Option(min=0, max=30, help="Seconds to wait for the end.")] = 0,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Issue a command. With --wait, the exit status says whether it was done."""
    import secrets

    from bridge.rest import NotAnswered, Refused

    body: dict[str, Any] = {"type": type, "subject": subject, "payload": json_object(payload, "PAYLOAD")}
    body |= {"reason": reason} if reason is not None else {}
    body |= {"expires_in": expires_in} if expires_in is not None else {}
    key = key or secrets.token_urlsafe(12)
    try:
        answer = call(
            url, token, "POST", "/commands", body,
            query={"wait": f"{wait:g}"} if wait else None, headers={"Idempotency-Key": key}, wait_s=wait,
        )  # fmt: skip
    except NotAnswered as error:
        raise NotAnswered(f"{error}; if it may have been accepted, repeat it with --key {key}") from None
    except Refused as error:
        again = f"; try again with --key {key}" if error.status in (429, 503) else ""
        _end(f"{error}{again}", 1)
    if as_json:
        print_json(answer)
    else:
        print_command(answer, repeated=answer["duplicate"])
    if wait and answer["state"] != "done":
        raise typer.Exit(1)


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="Of a command.", show_default=False)],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Where a command stands, and how it came there."""
    answer = call(url, token, "GET", f"/commands/{quoted(id)}")
    if as_json:
        print_json(answer)
        return
    print_command(answer)
    facts = ("payload", "reason", "issued_by", "expires_at", "origin", "requeued_as", "attempts")
    print_table((), ([name, text(answer[name])] for name in facts if answer[name] is not None))
    print("timeline")
    print_table((), ([step["at"], step["state"], step["node"] or ""] for step in answer["timeline"]))


@app.command()
def nodes(as_json: Json = False) -> None:
    """Chat nodes that are there, or were within the last hour."""
    columns = ("name", "state", "shards", "sessions", "rooms", "lag", "heartbeat_age_s", "url")
    found = [asdict(node) for node in _look(lambda bridge: bridge.nodes())]
    for node in found:
        del node["rates"]  # told by shard
        if node["state"] == "dead":
            node |= {"sessions": 0, "rooms": 0}  # what it had went with it
        if not as_json:
            node["shards"] = len(node["shards"])
    print_list(found, columns, as_json)


@app.command()
def shards(as_json: Json = False) -> None:
    """Who reads each shard, how much waits there and what is under way."""
    found = [asdict(shard) for shard in _look(lambda bridge: bridge.shard_infos())]
    for each in found:
        del each["letters"]  # dead are those that somebody has to look at
    print_list(found, ("shard", "holder", "epoch", "length", "lag", "pending", "oldest_age_s", "dead",
                        "handled_per_s"), as_json)  # fmt: skip


@app.command()
def pending(shard: OfShard = None, limit: Limit = 100, as_json: Json = False) -> None:
    """What nodes have read and not ended yet, oldest first within a shard."""

    async def read(bridge: Bridge) -> list[dict[str, Any]]:
        numbers = [shard] if shard is not None else [s.shard for s in await bridge.shard_infos() if s.pending]
        found: list[dict[str, Any]] = []
        for number in numbers:
            if len(found) < limit:
                found += map(asdict, await bridge.pending(number, limit - len(found)))
        return found

    print_list(_look(read), ("id", "type", "subject", "node", "idle_s", "deliveries"), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is wrong with the servers, and what to do. The exit status is 1 if something is."""
    from bridge.client import examine
    from bridge.config import BridgeSettings, load

    check = asyncio.run(examine(load(BridgeSettings)))
    print_findings(check.ok, [asdict(finding) for finding in check.findings], as_json)
    if not check.ok:
        raise typer.Exit(1)


def _look(read: Callable[[Bridge], Awaitable[T]]) -> T:
    """What ``read`` finds in Redis."""
    from bridge.client import Bridge
    from bridge.config import BridgeSettings, load

    async def look() -> T:
        async with Bridge.connect(load(BridgeSettings)) as bridge:
            return await read(bridge)

    return asyncio.run(look())


def _end(why: str, status: int) -> NoReturn:
    sys.stderr.write(f"chatbridge: {why}\n")
    sys.stderr.flush()
    sys.exit(status)


if __name__ == "__main__":
    main()
