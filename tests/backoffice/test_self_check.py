"""What the self-check finds, over HTTP and in the figures."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from backoffice.api import self_check
from tests.backoffice.service import Api, backoffice, settings
from tests.servers import Server


@pytest.fixture(autouse=True)
def always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "FRESH_S", 0.0)


async def test_all_is_well_until_something_is_wrong_and_again_when_it_is_mended(own_server: Server) -> None:
    async with backoffice(settings(own_server.url)) as api:
        answer = await api.as_("viewer").get("/self-check")
        assert (answer.status, answer.json["ok"], answer.json["findings"]) == (200, True, [])
        at = datetime.fromisoformat(answer.json["checked_at"])
        assert abs((datetime.now(UTC) - at).total_seconds()) < 5
        await own_server.client().config_set("maxmemory-policy", "allkeys-lru")
        told = (await api.get("/self-check")).json
        assert told["ok"] is False
        [finding] = told["findings"]
        assert set(finding) == {"severity", "code", "message", "remedy", "server"}
        assert (finding["severity"], finding["code"]) == ("refuse", "evicts")
        assert await figure(api, "refuse", "evicts") == 1
        await own_server.client().config_set("maxmemory-policy", "noeviction")
        assert (await api.get("/self-check")).json["ok"] is True
        assert await figure(api, "refuse", "evicts") == 0


async def figure(api: Api, severity: str, code: str) -> float:
    text = (await api.get("//metrics")).body.decode()
    found = re.search(rf'^bridge_self_check_findings{{code="{code}",severity="{severity}"}} (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found[1])


async def test_who_asks_again_soon_gets_the_same_answer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "FRESH_S", 60.0)
    first = (await api.get("/self-check")).json
    assert (await api.get("/self-check")).json == first


async def test_it_takes_a_token(api: Api) -> None:
    assert (await api.as_(None).get("/self-check")).status == 401


async def test_without_redis_it_is_unavailable(own_server: Server) -> None:
    async with backoffice(settings(own_server.url), prompt=True) as api:
        own_server.kill()
        assert (await api.get("/self-check")).status == 503
