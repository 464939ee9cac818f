"""Reading URLs, and what a reader is told of one that cannot be used."""

from __future__ import annotations

import pytest

from bridge.errors import Misconfigured
from bridge.urls import topology_of


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "no Redis URL scheme"),
        ("http://localhost", "'http' is no Redis URL scheme"),
        ("rediss+cluster://a:1", "'rediss\\+cluster' is no Redis URL scheme"),
        ("redis+sentinel://a:1,b:2", "name the service"),
        ("redis+sentinel:///chat", "'' is no HOST:PORT"),
        ("redis+sentinel://a:1,,b:2/chat", "'' is no HOST:PORT"),
        ("redis+sentinel://a:99999/chat", "'a:99999' is no HOST:PORT"),
        ("redis+sentinel://a:0/chat", "'a:0' is no HOST:PORT"),
        ("redis+sentinel://a/chat?db=x", "db=x is no number"),
        ("redis+sentinel://a/chat?retries=3", "retries means nothing here"),
        ("redis+cluster://", "'' is no HOST:PORT"),
        ("redis+cluster://a:1/chat", "chat means nothing here"),
        ("redis+cluster://a:1?db=1", "db means nothing here"),
        ("redis://localhost:port", "cannot be used"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_choices(url: str, complaint: str) -> None:
    with pytest.raises(Misconfigured, match=complaint) as refused:
        topology_of(url)
    assert "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "unix:///run/redis.sock",
        "redis://user:p%40ss@h:1/2",
        "redis+sentinel://:p%40ss@a,b:26380,[::1]:1/chat?db=3&sentinel_password=s",
        "redis+cluster://user:pass@a,b:1",
    ],
)
def test_usable_urls_are_read(url: str) -> None:
    topology_of(url)


def test_a_password_is_in_no_complaint() -> None:
    with pytest.raises(Misconfigured) as refused:
        topology_of("redis+cluster://user:secret@a:1?password=secret2&x=1")
    assert "secret" not in str(refused.value)
