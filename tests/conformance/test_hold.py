"""New commands wait for publishers that put back what a server has lost: for whom, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.client import Bridge
from bridge.errors import NotFound, Replaying
from tests.conformance.fleet import Fleet, do
from tests.conformance.test_journal import Past, replay_of, state
from tests.waiting import until

PUBLISHERS = "chat:{0}:publishers"


async def restarted(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.server.restart()
    await until(lambda: bridge.redis.connected)


async def move_clock(fleet: Fleet, seconds: float) -> None:
    """What the server knows of publishers, as if its clock had been set by that much then."""
    for name, value in (await fleet.raw.hgetall(PUBLISHERS)).items():
        ms, incarnation = value.split()
        await fleet.raw.hset(PUBLISHERS, name, b"%d %s" % (max(0, int(ms) - int(seconds * 1000)), incarnation))


async def put_back_nothing(publisher: Bridge) -> Callable[[], Awaitable[None]]:
    """From when this returns, until somebody needs it, or calls what this returns."""
    replay, idle = replay_of(publisher), asyncio.Event()

    async def look_at_nothing() -> None:
        idle.set()

    step, replay.step = replay.step, look_at_nothing  # type: ignore[method-assign]
    await idle.wait()
    return step


async def test_a_hold_that_is_over_does_not_begin_again_where_the_clock_is_set_back(own_fleet: Fleet) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("gone", "*")
    await restarted(own_fleet, bridge)
    with pytest.raises(Replaying):
        await do(bridge)
    await move_clock(own_fleet, 20)
    await do(bridge)
    await move_clock(own_fleet, -60)
    await do(bridge)
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_a_clock_that_is_set_back_during_a_hold_makes_it_no_longer(own_fleet: Fleet) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("gone", "*")
    await restarted(own_fleet, bridge)
    with pytest.raises(Replaying):
        await do(bridge)
    await move_clock(own_fleet, -60)
    with pytest.raises(Replaying):
        await do(bridge)
    await move_clock(own_fleet, 6)  # that is over soon
    await do(bridge)
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_publishers_are_waited_for_where_the_lost_servers_clock_was_ahead(own_fleet: Fleet) -> None:
    bridge = await own_fleet.bridge()
    await bridge.streams[0].vouch("there", "*")
    await move_clock(own_fleet, -60)
    await restarted(own_fleet, bridge)
    await bridge.streams[0].vouch("there", "-")
    with pytest.raises(Replaying):
        await do(bridge)
    await bridge.streams[0].vouch("there", "*")
    await do(bridge)
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_a_sign_of_life_does_not_take_back_that_everything_is_there(own_fleet: Fleet, tmp_path: Path) -> None:
    publisher = await own_fleet.bridge(journal=tmp_path)
    stream = publisher.streams[0]
    vouch, said, answer = stream.vouch, list[str](), asyncio.Event()

    async def hear_late(name: str, incarnation: str, **options: Any) -> str:
        current = await vouch(name, incarnation, **options)
        said.append(incarnation)
        if incarnation == current:
            await answer.wait()
        return current

    look = await put_back_nothing(publisher)
    stream.vouch = hear_late  # type: ignore[method-assign]
    await restarted(own_fleet, publisher)
    publishing = asyncio.create_task(do(publisher))
    await until(lambda: len(said) == 2)
    looking = asyncio.create_task(look())
    await until(lambda: looking.done() or len(said) > 2)
    answer.set()
    await asyncio.gather(publishing, looking)
    _, incarnation = (await own_fleet.raw.hget(PUBLISHERS, replay_of(publisher).journal.publisher)).decode().split()
    assert said[:2] == ["-", incarnation]
    await own_fleet.raw.delete("chat:{0}:commands")


async def test_a_command_that_somebody_else_is_about_to_put_back_can_be_cancelled_then(
    own_fleet: Fleet, tmp_path: Path
) -> None:
    publisher = await own_fleet.bridge(journal=tmp_path / "journal")
    other = await own_fleet.bridge(journal=tmp_path / "other")
    put_back = await put_back_nothing(publisher)
    past = Past(own_fleet.server)
    lost = await do(publisher)
    await past.return_()
    await until(lambda: other.redis.connected)
    with pytest.raises(Replaying):
        await other.cancel(lost.id, by="operator")
    await put_back()
    await other.cancel(lost.id, by="operator")
    assert await state(publisher, lost.id) == "cancelled"
    with pytest.raises(NotFound):
        await other.cancel("0-1-1", by="operator")
