from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Misconfigured
from chatserver.limits import Bucket, Words
from tests.chatserver.client import signed_in
from tests.chatserver.conftest import Chat
from tests.waiting import until


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket()
    assert [bucket.take(100.0, rate=2, burst=3) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(100.0, rate=2, burst=3) == pytest.approx(0.5)
    assert bucket.take(100.5, rate=2, burst=3) == 0
    assert bucket.take(100.5, rate=2, burst=3) > 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.floats(0.5, 50), st.floats(1, 100))
def test_no_bucket_gives_more_than_its_burst_and_rate(pauses: list[float], rate: float, burst: float) -> None:
    bucket, now, given_ = Bucket(), 1000.0, 0
    for pause in pauses:
        now += pause
        given_ += bucket.take(now, rate=rate, burst=burst) == 0
    assert given_ <= burst + rate * (now - 1000.0) + 1e-6


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("darn", True),
        ("well, DARN!", True),
        ("darning", False),
        ("x-rated", True),
        ("what the *!", True),
        ("two words", True),
        ("two  words", False),
        ("바보", True),
        ("바보야", False),
        ("STRASSE", True),
        ("a comment", False),
        ("", False),
    ],
)
def test_words_are_whole_words_in_any_case(tmp_path: Path, text: str, found: bool) -> None:
    file = tmp_path / "words.txt"
    file.write_text("darn\nx-rated # a comment\n\n*!\ntwo words\n바보\nStraße\n")
    assert Words.read(file).found_in(text) is found


def test_no_file_and_an_empty_one_forbid_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "words.txt"
    empty.write_text("# nothing\n")
    assert not Words.read(None).found_in("anything")
    assert not Words.read(empty).found_in("anything")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="CHATSERVER_WORDS_FILE"):
        Words.read(tmp_path / "none.txt")


async def test_who_comes_back_has_said_what_they_said_until_a_pause_would_have_done_as_well(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.hub.BURST_S", 3600.0)
    node = await chat.start_node(messages_per_s=1)
    hub = node.node.hub
    await chat.done("room.open", "room:lobby")
    async with signed_in(node.url, "u1", "lobby") as client:
        (here,) = hub.clients
        assert (await client.say("lobby", "x"))["type"] == "ok"
        hub.messages(here)._left = -1000.0  # as if they had said much more than they may
    await until(lambda: not hub.clients)
    await hub.sweep()
    async with signed_in(node.url, "u1", "lobby") as client:
        assert (await client.say("lobby", "x"))["code"] == "rate_limited"
        monkeypatch.setattr("chatserver.hub.BURST_S", 0.0)
        await hub.sweep()
        assert (await client.say("lobby", "x"))["code"] == "rate_limited"  # they are here
    await until(lambda: not hub._people)
    async with signed_in(node.url, "u1", "lobby") as client:
        assert (await client.say("lobby", "x"))["type"] == "ok"
