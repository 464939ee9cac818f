"""The protocol's document: it is what the code says, tools can read it, and a frame that it lacks is seen."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest
from jsonschema import Draft202012Validator

from chatserver import frames
from chatserver.asyncapi import CLOSE_CODES, document
from tests.browser.runtimes import Missing
from tests.browser.runtimes import node as node_program
from tests.chatserver.client import signed_in, token
from tests.chatserver.conftest import Chat, RunningNode
from tests.chatserver.schemas import Undocumented, check_received, check_sent, closed
from tests.servers import IN_CI

DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.json"
PARSER = "@asyncapi/parser@3.6.3"
CACHE = Path(tempfile.gettempdir()) / "chatbridge-tests-npm"
BETTER_THAN_AN_ERROR = {"asyncapi-latest-version"}  # 3.1 adds nothing that we use
MESSAGE = {"type": "message", "room": "lobby", "epoch": "e", "offset": 7, "message_id": "7-ab", "user": "u1",
           "name": "Ann", "text": "hello", "ts": 1}  # fmt: skip


def test_the_document_in_the_repository_is_what_the_code_says() -> None:
    assert json.loads(DOCUMENT.read_text()) == document(), "write it anew with: make asyncapi"


def test_every_frame_that_clients_may_send_is_received_and_answered() -> None:
    told = document()
    operations = {name: o for name, o in told["operations"].items() if o["action"] == "receive"}
    assert set(operations) == set(frames.CLIENT_FRAMES)
    assert [name for name, o in operations.items() if "reply" not in o] == ["pong"]


def test_every_close_code_and_error_code_is_told() -> None:
    codes = {value for name, value in vars(frames.Close).items() if name.isupper()}
    assert codes <= set(CLOSE_CODES)
    told = document()["components"]["schemas"]["Error"]["properties"]["code"]["enum"]
    sources = "".join(path.read_text() for path in Path(frames.__file__).parent.rglob("*.py"))
    assert [code for code in told if f'"{code}"' not in sources] == []
    assert set(told) >= frames.TEMPORARY


def test_schemas_are_schemas() -> None:
    for schema in document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "frame",
    [
        {**MESSAGE, "colour": "red"},
        {**MESSAGE, "offset": "7"},
        {**MESSAGE, "offset": -1},
        {name: value for name, value in MESSAGE.items() if name != "ts"},
        {name: value for name, value in MESSAGE.items() if name != "epoch"},
        {"type": "shout"},
        {"type": "ok"},
        {"type": "error", "id": 1, "code": "no such code", "message": "", "temporary": False},
        {"type": "sanction", "kind": "slap", "room": None, "until": None, "reason": None, "command_id": None},
    ],
)
def test_a_frame_that_is_not_told_of_is_found(frame: dict[str, Any]) -> None:
    check_received(MESSAGE)
    with pytest.raises(Undocumented):
        check_received(frame)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "say", "id": 1, "room": "lobby"},
        {"type": "say", "id": 1, "room": "no room", "text": "x"},
        {"type": "say", "id": 1, "room": "lobby", "text": "x", "nonce": "n" * 65},
        {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "e"}},
        {"type": "history", "id": 1, "room": "lobby", "limit": 101},
        {"type": "ping"},
    ],
)
def test_the_document_refuses_what_a_node_refuses(frame: dict[str, Any]) -> None:
    with pytest.raises(frames.Refused):
        frames.decode_frame(frame)
    with pytest.raises(Undocumented):
        check_sent(frame)


async def test_the_tests_own_client_finds_a_frame_that_is_not_told_of(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with signed_in(node.url, "u1", "lobby") as client:
        assert (await client.ask("ping"))["type"] == "pong"
        (here,) = node.node.hub.clients
        here.socket.push(frames.encode({**MESSAGE, "colour": "red"}))
        with pytest.raises(Undocumented, match="colour"):
            await client.push("message")
        # A node that took what the document forbids would be found out, too.
        monkeypatch.setattr(frames.History.model_fields["limit"], "metadata", [])
        frames.History.model_rebuild(force=True)
        try:
            with pytest.raises(Undocumented, match="101"):
                await client.ask("history", room="lobby", limit=101)
        finally:
            monkeypatch.undo()
            frames.History.model_rebuild(force=True)


def test_closing_the_document_leaves_clients_their_own_fields() -> None:
    told = closed(document())["components"]["schemas"]
    assert "additionalProperties" not in told["Say"]
    assert told["Message"]["additionalProperties"] is False
    check_sent({"type": "auth", "id": 1, "token": token(), "client": {"name": "x", "os": "y"}, "mood": "fine"})


@pytest.mark.timeout(240)
async def test_the_reference_parser_reads_the_document() -> None:
    installed = await asyncio.to_thread(_parser)
    process = await asyncio.create_subprocess_exec(
        *(_node(), str(Path(__file__).with_name("check_asyncapi.mjs")), str(installed), str(DOCUMENT)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    found = [json.loads(line) for line in out.splitlines()]
    assert (process.returncode, err) == (0, b""), found
    assert [fault for fault in found if fault["code"] not in BETTER_THAN_AN_ERROR] == []


def _parser() -> Path:
    """Where the parser is installed, once for all runs on this machine."""
    place = CACHE / PARSER.rsplit("/", 1)[1]
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            order = [*_npm(), "install", "--prefix", str(place), "--no-audit", "--no-fund", "--silent", PARSER]
            done = subprocess.run(order, capture_output=True, text=True, timeout=200, check=False)
            if done.returncode:
                _without(f"npm cannot install {PARSER}: {done.stderr or done.stdout}")
            (place / "complete").touch()
    return place


def _npm() -> list[str]:
    """Beside the Node.js that tests use, or the system's."""
    beside = Path(_node()).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if beside.exists():
        return [_node(), str(beside)]
    found = shutil.which("npm")
    return [found] if found is not None else _without("npm not found")


def _node() -> str:
    try:
        return node_program()
    except Missing as reason:
        return _without(str(reason))


def _without(reason: str) -> NoReturn:
    (pytest.fail if IN_CI else pytest.skip)(reason)
