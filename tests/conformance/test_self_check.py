"""Servers that a bridge does not start on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bridge.client import Bridge
from bridge.errors import Misconfigured
from tests.conformance.fleet import Fleet
from tests.servers import Server


async def test_a_server_that_evicts_is_refused(own_fleet: Fleet) -> None:
    await own_fleet.raw.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(Misconfigured, match="set it to noeviction"):
        await own_fleet.bridge()


async def test_a_server_that_forgets_is_refused_unless_that_is_accepted(own_fleet: Fleet) -> None:
    await own_fleet.raw.config_set("appendonly", "no")
    with pytest.raises(Misconfigured, match="set appendonly yes"):
        await own_fleet.bridge()
    assert await own_fleet.bridge(allow_volatile=True)


async def test_another_count_of_shards_is_refused_with_the_stored_one(fleet: Fleet) -> None:
    await fleet.bridge(shards=4)
    with pytest.raises(Misconfigured, match="BRIDGE_SHARDS=4"):
        await fleet.bridge(shards=8)


async def test_another_namespace_counts_for_itself(fleet: Fleet) -> None:
    await fleet.bridge(shards=4)
    assert await fleet.bridge(shards=8, namespace="other")
    await fleet.raw.delete("other:{meta}")


async def test_a_schema_to_come_is_refused(fleet: Fleet) -> None:
    await fleet.raw.hset("chat:{meta}", mapping={"shards": 1, "schema": "2"})
    with pytest.raises(Misconfigured, match="schema 2"):
        await fleet.bridge()


async def test_all_who_start_at_once_agree(fleet: Fleet) -> None:
    answers = await asyncio.gather(*(fleet.bridge(shards=4 + i % 2) for i in range(10)), return_exceptions=True)
    stored = int(await fleet.raw.hget("chat:{meta}", "shards"))
    assert sum(isinstance(answer, Misconfigured) for answer in answers) == 5
    assert {answer.shards for answer in answers if not isinstance(answer, BaseException)} == {stored}


async def test_a_server_that_hides_its_settings_is_taken_as_it_is(
    start_server: Callable[..., Server], engine: str
) -> None:
    server = start_server(engine)
    client: Any = server.client()
    await client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-config")
    async with Bridge.connect(server.url.replace("unix://", "unix://plain:secret@"), shards=1) as bridge:
        await bridge.ping()
