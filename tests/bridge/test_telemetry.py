"""Listeners hear everything and disturb nothing."""

from __future__ import annotations

import logging
import threading

import pytest

from bridge.telemetry import Released, Telemetry

EVENT = Released(node="node-a", shard=1)


def test_nobody_listens_at_first() -> None:
    assert not Telemetry().active


@pytest.mark.parametrize("inline", [True, False])
def test_a_listener_hears_events_in_order(inline: bool) -> None:
    telemetry, heard, done = Telemetry(), list[object](), threading.Event()

    def listen(event: Released) -> None:
        heard.append(event.shard)
        if event.shard == 99:
            done.set()

    stop = telemetry.listen(listen, inline=inline)
    for shard in range(100):
        telemetry.emit(Released("node-a", shard))
    assert done.wait(30)
    stop()
    assert heard == list(range(100))


@pytest.mark.parametrize("inline", [True, False])
def test_who_stopped_hears_no_more(inline: bool) -> None:
    telemetry, heard = Telemetry(), list[object]()
    telemetry.listen(heard.append, inline=inline)()
    telemetry.emit(EVENT)
    assert heard == []
    assert not telemetry.active


@pytest.mark.parametrize("inline", [True, False])
def test_a_listener_that_raises_is_logged_and_hears_the_next(inline: bool, caplog: pytest.LogCaptureFixture) -> None:
    telemetry, calls, twice = Telemetry(), list[object](), threading.Event()

    def fail(event: object) -> None:
        calls.append(event)
        if len(calls) == 2:
            twice.set()
        raise RuntimeError("boom")

    with caplog.at_level(logging.ERROR):
        stop = telemetry.listen(fail, inline=inline)
        telemetry.emit(EVENT)
        telemetry.emit(EVENT)
        assert twice.wait(30)
    stop()
    assert "boom" in caplog.text


def test_a_listener_that_blocks_holds_up_nobody_and_loses_the_oldest() -> None:
    telemetry, release, last = Telemetry(), threading.Event(), threading.Event()
    heard: list[int] = []

    def block(event: Released) -> None:
        release.wait(60)
        heard.append(event.shard)
        if event.shard == 11_999:
            last.set()

    stop = telemetry.listen(block)
    quick: list[object] = []
    telemetry.listen(quick.append, inline=True)
    for shard in range(12_000):
        telemetry.emit(Released("node-a", shard))
    assert len(quick) == 12_000
    release.set()
    assert last.wait(30)
    stop()
    assert len(heard) <= 10_001  # the one it blocked on, and what may wait
