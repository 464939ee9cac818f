"""The command line, as a process, against a real back office, node and server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bridge.effects import Effects
from bridge.envelope import Command
from bridge.errors import Rejected
from bridge.registry import Registry
from bridge.telemetry import Buried, Started
from tests.backoffice.conftest import serving
from tests.backoffice.service import TOKENS, Api, backoffice, settings
from tests.recorder import Recorder
from tests.servers import Server


class Item(BaseModel):
    item: str


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


async def run(*arguments: str, stdin: str = "", **environment: str) -> Result:
    """``chatbridge`` with nothing but these variables of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge.cli", *arguments),
        env={**inherited, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return Result(process.returncode, out.decode(), err.decode())


class Shop:
    """Back office and node of an installation whose commands can be told to fail."""

    def __init__(self, api: Api, server: Server, events: Recorder, gate: asyncio.Event) -> None:
        self.events, self.gate, self._api, self._server = events, gate, api, server

    async def run(self, *arguments: str, role: str = "admin", stdin: str = "") -> Result:
        return await run(*arguments, stdin=stdin, **self.environment(role))

    def environment(self, role: str = "admin") -> dict[str, str]:
        return {"BACKOFFICE_URL": self._api.url, "BACKOFFICE_TOKEN": TOKENS[role],
                "BRIDGE_REDIS_URL": self._server.url, "BRIDGE_SHARDS": "8"}  # fmt: skip

    async def bury(self, count: int) -> list[str]:
        """Ids of commands that became dead letters, oldest first."""
        ids = []
        for number in range(count):
            issued = await self._api.issue("item.break", f"user:u{number}", {"item": "vase"})
            ids.append((await self.events.wait_for(Buried, id=issued.json["id"])).id)
        return ids


@pytest.fixture
async def shop(server: Server, events: Recorder) -> AsyncIterator[Shop]:
    registry, gate = Registry(), asyncio.Event()
    registry.command("item.grant", subject="user")(Item)

    @registry.handles(Item)
    async def grant(command: Command[Item]) -> Effects:
        if command.payload.item == "none":
            raise Rejected("there is no such item")
        if command.payload.item == "held":
            await gate.wait()
        return Effects().result(granted=command.payload.item)

    class Break(Item):
        pass

    registry.command("item.break", subject="user")(Break)

    @registry.handles(Break)
    async def break_(command: Command[Break]) -> Effects:
        if command.payload.item != "glue":
            raise RuntimeError("it broke")
        return Effects()

    config = settings(server.url, max_attempts=1, handler_seconds=100)  # as long as a slow machine needs
    async with backoffice(config, registry=registry) as api, serving(config, events, registry=registry):
        yield Shop(api, server, events, gate)
        gate.set()


async def test_publish_tells_the_id_and_with_wait_what_became_of_it(shop: Shop) -> None:
    accepted = await shop.run("publish", "item.grant", "user:u1", '{"item": "sword"}')
    assert accepted.status == 0
    assert accepted.rows[0][1:] == ["item.grant", "user:u1:", "accepted"]

    done = await shop.run("publish", "item.grant", "user:u1", "-", "--wait", "10", stdin='{"item": "bow"}')
    assert done.status == 0
    assert done.out.endswith('user:u1: done on node-a {"granted": "bow"}\n')

    told = (await shop.run("publish", "item.grant", "user:u1", '{"item": "bow"}', "--wait", "10", "--json")).json
    assert (told["state"], told["node"], told["result"]) == ("done", "node-a", {"granted": "bow"})


async def test_publish_fails_where_the_command_was_not_done(shop: Shop) -> None:
    rejected = await shop.run("publish", "item.grant", "user:u1", '{"item": "none"}', "--wait", "10")
    assert rejected.status == 1
    assert "rejected on node-a (rejected: there is no such item)" in rejected.out

    held = await shop.run("publish", "item.grant", "user:u2", '{"item": "held"}', "--wait", "0.1", "--json")
    assert held.status == 1
    assert held.json["state"] == "accepted"


async def test_publish_repeats_with_its_key_and_passes_reason_and_time_on(shop: Shop) -> None:
    order = ("publish", "item.grant", "user:u1", '{"item": "sword"}', "--key", "order-77", "--json",
             "--reason", "paid", "--expires-in", "60")  # fmt: skip
    first, second = (await shop.run(*order)).json, (await shop.run(*order)).json
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["id"] == second["id"]
    shown = (await shop.run("show", first["id"], "--json")).json
    assert (shown["idempotency_key"], shown["reason"]) == ("order-77", "paid")
    assert shown["expires_at"] is not None


async def test_show_tells_the_way_a_command_went(shop: Shop) -> None:
    id = (await shop.run("publish", "item.grant", "user:u1", '{"item": "bow"}', "--wait", "10", "--json")).json["id"]
    shown = await shop.run("show", id, role="viewer")
    assert shown.status == 0
    states = [row[1] for row in shown.rows[shown.rows.index(["timeline"]) + 1 :]]
    assert states == ["accepted", "handling", "done"]

    unknown = await shop.run("show", "1-2-3")
    assert unknown.status == 1
    assert unknown.err == "chatbridge: there is no command 1-2-3 (404 not_found)\n"


async def test_what_the_api_refuses_is_one_line_with_every_fault(shop: Shop) -> None:
    wrong = await shop.run("publish", "item.grant", "room:u1", '{"item": 1}')
    assert wrong.status == 1
    assert wrong.err.count("\n") == 1
    assert "/subject: " in wrong.err
    assert "/payload/item: " in wrong.err
    assert "(422 invalid)" in wrong.err

    forbidden = await shop.run("publish", "item.grant", "user:u1", '{"item": "x"}', role="viewer")
    assert (forbidden.status, "(403 forbidden)" in forbidden.err) == (1, True)


async def test_a_token_is_read_from_a_file(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKENS["viewer"] + "\n")
    environment = shop.environment() | {"BACKOFFICE_TOKEN": f"file:{tmp_path}/token"}
    assert (await run("dead", "list", **environment)).status == 0


async def test_nodes_shards_and_pending_are_read_from_redis(shop: Shop) -> None:
    await shop.run("publish", "item.grant", "user:u1", '{"item": "held"}')
    started = await shop.events.wait_for(Started)

    nodes = await shop.run("nodes", "--json")
    assert [(n["name"], n["state"], n["types"]) for n in nodes.json["items"]] == [
        ("node-a", "live", ["item.break", "item.grant"])
    ]
    assert (await shop.run("nodes")).rows[1][:3] == ["node-a", "live", "8"]

    shards = (await shop.run("shards", "--json")).json["items"]
    assert [s["shard"] for s in shards] == list(range(8))
    assert {s["holder"] for s in shards} == {"node-a"}
    assert sum(s["pending"] for s in shards) == 1
    assert len((await shop.run("shards")).rows) == 9

    pending = (await shop.run("pending", "--json")).json["items"]
    assert [(p["id"], p["type"], p["subject"], p["node"]) for p in pending] == [
        (started.id, "item.grant", "user:u1", "node-a")
    ]
    mine = started.id.split("-")[0]
    assert (await shop.run("pending", "--shard", mine)).rows[1][0] == started.id
    other = str((int(mine) + 1) % 8)
    assert (await shop.run("pending", "--shard", other, "--json")).json["items"] == []
    nowhere = await shop.run("pending", "--shard", "8")
    assert (nowhere.status, nowhere.err) == (1, "chatbridge: no shard 8: there are 8\n")


async def test_dead_letters_are_listed_by_filter_and_page_and_shown_as_they_came(shop: Shop) -> None:
    first, second = await shop.bury(2)
    listed = await shop.run("dead", "list", "--json")
    assert [letter["id"] for letter in listed.json["items"]] == [second, first]
    assert (await shop.run("dead", "list")).rows[1][0] == second
    assert (await shop.run("dead", "--json")).json == listed.json
    assert (await shop.run("dead")).rows[1][0] == second
    assert "requeue" in (await shop.run("dead", "--help")).out
    page = await shop.run("dead", "list", "--limit", "1")
    cursor = page.rows[-1][-1]
    rest = await shop.run("dead", "list", "--limit", "1", "--cursor", cursor, "--json")
    assert [letter["id"] for letter in rest.json["items"]] == [first]
    for option in (("--subject", "user:u0"), ("--shard", first.split("-")[0])):
        found = (await shop.run("dead", "list", *option, "--json")).json["items"]
        assert first in [letter["id"] for letter in found]
    assert (await shop.run("dead", "list", "--code", "timed_out", "--json")).json["items"] == []

    shown = await shop.run("dead", "show", first)
    assert f"{first} attempts_used_up: RuntimeError: it broke" in shown.out
    assert ["payload", '{"item":"vase"}'] in shown.rows


async def test_a_dead_letter_goes_back_once_with_another_payload(shop: Shop) -> None:
    (id,) = await shop.bury(1)
    order = ("dead", "requeue", id, "--reason", "mended", "--payload", '{"item": "glue"}')
    would = await shop.run(*order, "--dry-run")
    assert (would.status, would.rows[-1]) == (0, ["1", "matched,", "1", "would", "requeue,", "0", "skipped"])
    moved = (await shop.run(*order, "--json")).json["done"][0]
    again = await shop.run(*order)
    assert again.status == 0, "what was done already is no failure"
    assert again.rows[0] == [id, "skipped", "already_requeued"]
    shown = (await shop.run("show", moved["new_id"], "--json")).json
    assert (shown["origin"], shown["payload"], shown["reason"]) == (id, {"item": "glue"}, "mended")
    assert (await shop.run("dead", "list", "--requeued", "--json")).json["items"][0]["id"] == id


async def test_dead_letters_are_discarded_by_filter_or_all_of_them(shop: Shop) -> None:
    first, second, third = await shop.bury(3)
    one = (await shop.run("dead", "discard", "--subject", "user:u1", "--reason", "known", "--json")).json
    assert [moved["id"] for moved in one["done"]] == [second]
    rest = await shop.run("dead", "discard", "--all", "--reason", "known")
    assert {row[0] for row in rest.rows[:-1]} == {first, third}
    assert (await shop.run("dead", "list", "--json")).json["items"] == []
    gone = await shop.run("dead", "discard", first, "--reason", "known")
    assert (gone.status, gone.rows[0]) == (1, [first, "skipped", "not_found"])


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("publish", "item.grant"), "Missing argument 'subject'"),
        (("publish", "item.grant", "user:u1", "[]"), "is no JSON object"),
        (("publish", "item.grant", "user:u1", "{"), "is not JSON"),
        (("publish", "item.grant", "user:u1", "--wait", "31"), "less than or equal to 30"),
        (("show", "1-2-3"), "set BACKOFFICE_TOKEN"),
        (("show", "1-2-3", "--token", "file:/nowhere"), "cannot read /nowhere"),
        (("show", "1-2-3", "--token", "t", "--url", "nonsense"), "http://HOST:PORT"),
        (("dead", "requeue", "--reason", "r", "--token", "t"), "--all"),
        (("dead", "discard", "1-2-3", "--all", "--reason", "r", "--token", "t"), "--all"),
        (("dead", "discard", "1-2-3"), "--reason"),
        (("nodes",), "BRIDGE_REDIS_URL is not set; set it to one of"),
        (("demo", "--nodes", "0"), "greater than or equal to 1"),
        (("demo", "--ready-file", "/nowhere/ready.json"), "no folder /nowhere"),
        (("demo", "--data", "/dev/null/data"), "cannot keep data in /dev/null/data"),
        (("mute",), "No such command"),
    ],
)
async def test_misuse_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], remedy: str) -> None:
    result = await run(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("chatbridge: ")
    assert result.err.count("\n") == 1
    assert remedy in result.err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (
            ("show", "1-2-3", "--token", "t", "--url", "http://127.0.0.1:9"),
            "no back office answers at http://127.0.0.1:9",
        ),
        (("publish", "a.b", "c:d", "--token", "t", "--url", "http://127.0.0.1:9"), "repeat it with --key "),
        (("nodes",), "Redis does not answer: 127.0.0.1:9"),
        (("nodes",), "is BRIDGE_REDIS_URL right?"),
    ],
)
async def test_a_service_that_is_not_there_is_one_line_too(arguments: tuple[str, ...], remedy: str) -> None:
    result = await run(*arguments, BRIDGE_REDIS_URL="redis://127.0.0.1:9")
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert remedy in result.err


async def test_another_shard_count_is_refused_with_the_remedy(shop: Shop) -> None:
    result = await run("nodes", **shop.environment() | {"BRIDGE_SHARDS": "16"})
    assert (result.status, "set BRIDGE_SHARDS=8" in result.err) == (2, True)


async def test_the_doctor_tells_what_is_wrong_where_nothing_else_starts(own_server: Server) -> None:
    url = own_server.url
    well = await run("doctor", BRIDGE_REDIS_URL=url)
    assert (well.status, well.out) == (0, "nothing is known to be wrong\n")
    await own_server.client().config_set("maxmemory-policy", "allkeys-lru")
    assert (await run("nodes", BRIDGE_REDIS_URL=url)).status == 2
    ill = await run("doctor", BRIDGE_REDIS_URL=url)
    assert ill.status == 1
    assert ill.out.startswith("refuse evicts on ")
    assert "set it to noeviction" in ill.out
    told = (await run("doctor", "--json", BRIDGE_REDIS_URL=url)).json
    assert told["ok"] is False
    assert [finding["code"] for finding in told["findings"]] == ["evicts"]


async def test_help_names_the_commands_and_loads_nothing_heavy() -> None:
    shown = await run("--help")
    assert shown.status == 0
    for command in ("demo", "publish", "show", "nodes", "shards", "pending", "dead"):
        assert f" {command} " in shown.out
    code = "import sys, bridge.cli; print([m for m in ('aiohttp', 'websockets') if m in sys.modules])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"[]\n"
