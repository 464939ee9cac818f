"""room.*: a room's own state. All but opening are rejected for a room that was never opened."""

from __future__ import annotations

from typing import Any

from bridge.chat.commands import RoomClear, RoomClose, RoomFreeze, RoomOpen, RoomSlowMode, RoomUnfreeze
from bridge.chat.state import RoomInfo, RoomState, room_from
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.errors import Rejected
from bridge.registry import handles
from chatserver.handlers.messages import delete
from chatserver.handlers.sanctions import now_ms


@handles(RoomOpen)
async def open_room(command: Command[RoomOpen]) -> Effects:
    room = await _read(command)
    title = command.payload.title or (room.title if room else command.subject_id)
    effects = Effects().hset("settings", "title", title).hset("settings", "state", "open")
    if room is None:
        opened_at = now_ms(command)
        effects.hset("settings", "slow_mode_s", 0).hset("settings", "opened_at", opened_at)
        effects.zadd("rooms", command.subject_id, opened_at, shared=True)
    return _tell(effects, "open", room.slow_mode_s if room else 0, title).result(created=room is None, title=title)


@handles(RoomClose)
async def close_room(command: Command[RoomClose]) -> Effects:
    return _change(await _opened(command), "closed")


@handles(RoomFreeze)
async def freeze(command: Command[RoomFreeze]) -> Effects:
    return _change(await _not_closed(command), "frozen")


@handles(RoomUnfreeze)
async def unfreeze(command: Command[RoomUnfreeze]) -> Effects:
    return _change(await _not_closed(command), "open")


@handles(RoomSlowMode)
async def slow_mode(command: Command[RoomSlowMode]) -> Effects:
    room, seconds = await _opened(command), command.payload.seconds
    effects = Effects().hset("settings", "slow_mode_s", seconds)
    return _tell(effects, room.state, seconds, room.title).result(slow_mode_s=seconds, before=room.slow_mode_s)


@handles(RoomClear)
async def clear(command: Command[RoomClear]) -> Effects:
    await _opened(command)
    return await delete(command, lambda item: True)


def _change(room: RoomInfo, state: RoomState) -> Effects:
    effects = Effects().hset("settings", "state", state)
    return _tell(effects, state, room.slow_mode_s, room.title).result(state=state, before=room.state)


def _tell(effects: Effects, state: RoomState, slow_mode_s: int, title: str) -> Effects:
    return effects.publish("room", {"state": state, "slow_mode_s": slow_mode_s, "title": title})


async def _read(command: Command[Any]) -> RoomInfo | None:
    settings = await command.read("settings")
    return room_from(command.subject_id, settings if isinstance(settings, dict) else {})


async def _opened(command: Command[Any]) -> RoomInfo:
    room = await _read(command)
    if room is None:
        raise Rejected(f"there is no room {command.subject_id!r}: open it first")
    return room


async def _not_closed(command: Command[Any]) -> RoomInfo:
    room = await _opened(command)
    if room.state == "closed":
        raise Rejected(f"room {command.subject_id!r} is closed: open it first")
    return room
