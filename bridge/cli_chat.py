"""Commands of ``chatbridge`` that are chat clients: a probe of one node, and load on all of them."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli_options import Json, secret
from bridge.printing import print_json, print_table

if TYPE_CHECKING:
    from bridge.guests import Demo

Nodes = Annotated[list[str] | None, typer.Argument(help="Nodes: ws://HOST:PORT/ws …", show_default=False)]
ChatToken = Annotated[str | None, typer.Option("--token", show_default=False,
                                               help="A chat token; file:PATH reads it from a file.")]  # fmt: skip
JwtKey = Annotated[str | None, typer.Option("--jwt-key", envvar="CHATSERVER_JWT_KEY", show_default=False,
                                            help="The nodes' secret, to sign tokens with.")]  # fmt: skip
Office = Annotated[str | None, typer.Option("--backoffice", envvar="BACKOFFICE_URL", show_default=False,
                                            help="A demo's back office, which gives tokens away.")]  # fmt: skip
OfficeToken = Annotated[str | None, typer.Option("--backoffice-token", envvar="BACKOFFICE_TOKEN", show_default=False,
                                                 help="Who you are to it.")]  # fmt: skip
ReadyFile = Annotated[Path | None, typer.Option("--ready-file", dir_okay=False,
                                                help="Of a demo: says all of this.")]  # fmt: skip


def ws_probe(
    url: Annotated[str | None, typer.Argument(help="Of a node: ws://HOST:PORT/ws.", show_default=False)] = None,
    token: ChatToken = None,
    user: Annotated[str, typer.Option(help="Who to be, if there is no --token.")] = "probe",
    room: Annotated[str | None, typer.Option(help="Join it, too.")] = None,
    say: Annotated[str | None, typer.Option(help="Say this in the room, and wait to hear it.")] = None,
    jwt_key: JwtKey = None,
    backoffice: Office = None,
    backoffice_token: OfficeToken = None,
    ready_file: ReadyFile = None,
    as_json: Json = False,
) -> None:
    """Visit a chat node as a client does, step by step. The exit status says whether everything worked."""
    from bridge.guests import tokens
    from bridge.probe import Probe, Visit, as_rows, summary

    demo = _demo(ready_file)
    where = url or (demo.nodes[0] if demo is not None else None)
    if where is None:
        raise typer.BadParameter("no node; give its address, or the --ready-file of a demo.")
    if say is not None and room is None:
        raise typer.BadParameter("--say needs a --room to say it in.")

    async def visit() -> Visit:
        office = _office(demo, backoffice, backoffice_token)
        async with tokens(token=_secret(token), key=_secret(jwt_key), backoffice=office) as token_for:
            return await Probe(where, await token_for(user), room=room, text=say).visit()

    found = asyncio.run(visit())
    if as_json:
        print_json(asdict(found))
    else:
        print_table((), as_rows(found))
        print_table((), ([name, value] for name, value in summary(found).items()))
    if not found.ok:
        raise typer.Exit(1)


def put_load(
    urls: Nodes = None,
    clients: Annotated[int, typer.Option(min=2, max=20_000, help="How many users.")] = 100,
    room: Annotated[list[str] | None, typer.Option(help="A room that is open; several: clients are spread.",
                                                   show_default=False)] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=20_000, help="Messages a second, of all together.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="How long they talk.")] = 10,
    settle: Annotated[float, typer.Option(min=0, max=600, help="Seconds that what was said last may take.")] = 15,
    users: Annotated[str, typer.Option(help="Names begin with this.")] = "load",
    jwt_key: JwtKey = None,
    backoffice: Office = None,
    backoffice_token: OfficeToken = None,
    ready_file: ReadyFile = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Have users chat, and count what arrives. The exit status is 1 if anything was lost or came twice."""
    from bridge.guests import tokens
    from bridge.load import Load, Plan, Report, allow_sockets, as_rows, watched

    demo = _demo(ready_file)
    nodes = urls or (list(demo.nodes) if demo is not None else [])
    rooms = room or (list(demo.rooms) if demo is not None else [])
    if not nodes or not rooms:
        raise typer.BadParameter("where? Give addresses of nodes and --room, or the --ready-file of a demo.")
    plan = Plan(tuple(nodes), tuple(rooms), clients, rate, seconds, users, settle)

    async def run() -> Report:
        office = _office(demo, backoffice, backoffice_token)
        async with tokens(token=None, key=_secret(jwt_key), backoffice=office) as token_for:
            load = Load(plan, token_for)
            if as_json or not sys.stderr.isatty():
                return await load.run()
            async with watched(load):
                return await load.run()

    allow_sockets(clients + 256)
    report = asyncio.run(run())
    if as_json:
        print_json(asdict(report))
    else:
        print_table((), as_rows(report))
    if not report.ok:
        raise typer.Exit(1)


def _demo(ready_file: Path | None) -> Demo | None:
    from bridge.guests import Demo

    return None if ready_file is None else Demo.read(ready_file)


def _office(demo: Demo | None, url: str | None, token: str | None) -> tuple[str, str] | None:
    if demo is not None:
        return demo.backoffice, demo.api_token
    return (url, secret(token)) if url and token else None


def _secret(given: str | None) -> str | None:
    return None if given is None else secret(given)
