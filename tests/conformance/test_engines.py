"""What the bridge takes for granted of every engine it supports."""

from __future__ import annotations

from typing import Any

from tests.servers import Server

COMMANDS = (
    "SPUBLISH", "SSUBSCRIBE", "XAUTOCLAIM", "XREADGROUP", "XPENDING", "XACK", "XDEL", "EVALSHA", "PEXPIRE", "WAIT",
)  # fmt: skip


async def test_the_commands_are_there(server: Server) -> None:
    client: Any = server.client(decode_responses=True)
    known = {name.upper() for name in await client.execute_command("COMMAND LIST")}
    assert known.issuperset(COMMANDS)


async def test_scripts_may_ask_for_the_replication_id(server: Server) -> None:
    client = server.client(decode_responses=True)
    seen = await client.eval("return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')", 0)
    assert seen == (await client.info("replication"))["master_replid"]


async def test_the_replication_id_changes_with_a_restart(own_server: Server) -> None:
    client = own_server.client()
    before = (await client.info("replication"))["master_replid"]
    await own_server.restart()
    assert (await client.info("replication"))["master_replid"] != before


async def test_a_killed_server_keeps_what_it_answered(own_server: Server) -> None:
    client = own_server.client()
    await client.xadd("stream", {"field": "value"})
    await client.xgroup_create("stream", "group", "0")
    own_server.kill()
    await own_server.restart()
    assert await client.xlen("stream") == 1
    assert [group["name"] for group in await client.xinfo_groups("stream")] == [b"group"]
