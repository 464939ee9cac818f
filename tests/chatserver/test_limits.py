from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Misconfigured
from chatserver.limits import Bucket, Words


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
