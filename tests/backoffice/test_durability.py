"""What callers are told where a command is accepted and not safe yet, or not taken for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bridge.client import Bridge
from bridge.config import BridgeSettings
from tests.backoffice.audited import audited
from tests.backoffice.service import REDIS_S, Answer, Api, backoffice, settings
from tests.servers import Server
from tests.waiting import until


@pytest.fixture
async def own_settings(own_server: Server) -> BridgeSettings:
    return settings(own_server.url, shards=1)


@pytest.fixture
async def own_api(own_settings: BridgeSettings) -> AsyncIterator[Api]:
    async with backoffice(own_settings) as api:
        yield api


async def test_while_others_put_back_what_was_lost_a_caller_is_told_when_to_come_again(
    own_server: Server, own_api: Api, own_settings: BridgeSettings
) -> None:
    async with Bridge.connect(own_settings, timeout=REDIS_S) as bridge:
        await bridge.streams[0].vouch("another-publisher", "*")
        await own_server.restart()
        await until(lambda: bridge.redis.connected)

        async def held() -> Answer | None:
            answer = await own_api.issue("user.warn", "user:u1", {"text": "x"}, key="k")
            return answer if answer.status == 503 and "waits for commands" in answer.json["detail"] else None

        answer = await until(held)
        assert answer.json["code"] == "unavailable"
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        assert answer.json["idempotency_key"] == "k"
        await bridge.streams[0].vouch("another-publisher", "*")
        answer = await own_api.issue("user.warn", "user:u1", {"text": "x"}, key="k")
        assert (answer.status, answer.json["duplicate"]) == (202, False)


async def test_a_command_that_too_few_replicas_have_is_told_so(own_server: Server) -> None:
    async with backoffice(settings(own_server.url, wait_replicas=1)) as api:
        answers = await asyncio.gather(
            *(api.issue("user.warn", f"user:u{n}", {"text": "x"}, key="k") for n in range(30))
        )
        for answer in answers:
            assert (answer.status, answer.json["code"]) == (503, "not_replicated")
            assert answer.headers["Retry-After"] == "1"
            assert answer.json["idempotency_key"] == "k"
        entries = await audited(api, 60, action="commands.issue")
        assert {entry["result"] for entry in entries} == {"intended", "unknown: not_replicated"}


async def test_a_command_of_whose_acceptance_nobody_was_told_is_listed_when_it_is_repeated(
    bridge_settings: BridgeSettings,
) -> None:
    async with (
        backoffice(bridge_settings) as api,
        Bridge.connect(bridge_settings, timeout=REDIS_S) as elsewhere,
    ):
        first = await elsewhere.publish("user.warn", "user:u1", {"text": "x"}, by="admin", idempotency_key="k")
        again = await api.issue("user.warn", "user:u1", {"text": "x"}, key="k")
        assert (again.status, again.json["id"], again.json["duplicate"]) == (200, first.id, True)

        async def listed() -> list[str]:  # no node is there to end it
            return [item["id"] for item in (await api.get("/commands")).json["items"]]

        assert await until(listed) == [first.id]
