"""user.*: what happens to one user everywhere. Mute and ban share one record, so that a say needs one read."""

from __future__ import annotations

from typing import Any

from bridge.channels import CONTROL
from bridge.chat.commands import UserBan, UserKick, UserMute, UserUnban, UserUnmute, UserWarn
from bridge.chat.events import SanctionKind, sanction_event
from bridge.chat.state import KICK_SECONDS, Sanction, SanctionType, user_sanctions_from
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import handles
from chatserver.handlers.sanctions import index, now_ms, rfc3339, sanction_of, unindex


@handles(UserMute)
async def mute(command: Command[UserMute]) -> Effects:
    return await _impose(command, "mute", shadow=command.payload.shadow)


@handles(UserBan)
async def ban(command: Command[UserBan]) -> Effects:
    return await _impose(command, "ban")


@handles(UserUnmute)
async def unmute(command: Command[UserUnmute]) -> Effects:
    return await _lift(command, "mute")


@handles(UserUnban)
async def unban(command: Command[UserUnban]) -> Effects:
    return await _lift(command, "ban")


@handles(UserKick)
async def kick(command: Command[UserKick]) -> Effects:
    # The time stays for nodes that miss the event: a session that began before it is closed on any read.
    now = now_ms(command)
    effects = Effects().set("kicked_at", now, KICK_SECONDS)
    return effects.publish("sanction", _event(command, "kick"), channel=CONTROL).result(kicked_at=rfc3339(now))


@handles(UserWarn)
async def warn(command: Command[UserWarn]) -> Effects:
    # It stays for nodes that miss the event. Who comes later does not get it: it is in the operators' records.
    event = _event(command, "warn", text=command.payload.text)
    effects = Effects().set("warned", {**event, "at": now_ms(command)}, KICK_SECONDS)
    return effects.publish("sanction", event, channel=CONTROL)


async def _impose(command: Command[Any], kind: SanctionType, *, shadow: bool = False) -> Effects:
    sanction = sanction_of(
        command, kind, user=command.subject_id, room=None, seconds=command.payload.seconds, shadow=shadow
    )
    before = await _held(command)
    event = _event(command, kind, until=sanction.until, shadow=shadow)
    effects = index(_store(Effects(), {**before, kind: sanction}, now_ms(command)), sanction)
    if shadow and kind in before and not before[kind].shadow:  # what the user knows of is over, for all they see
        effects.publish("sanction", _event(command, "unmute"), channel=CONTROL)
    return effects.publish("sanction", event, channel=CONTROL).result(until=rfc3339(sanction.until))


async def _lift(command: Command[Any], kind: SanctionType) -> Effects:
    held = await _held(command)
    lifted = held.pop(kind, None)
    # Lifting a mute that the user was not to notice must not be noticed either.
    event = _event(command, "unmute" if kind == "mute" else "unban", shadow=lifted is not None and lifted.shadow)
    effects = unindex(_store(Effects(), held, now_ms(command)), kind, command.subject_id, None)
    return effects.publish("sanction", event, channel=CONTROL).result(lifted=lifted is not None)


async def _held(command: Command[Any]) -> dict[SanctionType, Sanction]:
    raw = await command.read("sanctions")
    return user_sanctions_from(command.subject_id, raw if isinstance(raw, str) else None, now_ms(command))


def _store(effects: Effects, held: dict[SanctionType, Sanction], now: int) -> Effects:
    """Keep the record until the last of its sanctions ends."""
    if not held:
        return effects.delete("sanctions")
    ends = [sanction.until for sanction in held.values()]
    last = max((end for end in ends if end is not None), default=now)
    seconds = None if None in ends else (last - now) / 1000
    return effects.set("sanctions", {kind: sanction.record() for kind, sanction in held.items()}, seconds)


def _event(
    command: Command[Any],
    kind: SanctionKind,
    *,
    until: int | None = None,
    text: str | None = None,
    shadow: bool = False,
) -> dict[str, Any]:
    return sanction_event(
        kind,
        user=command.subject_id,
        room=None,
        command_id=command.id,
        until=until,
        reason=command.reason,
        by=command.issued_by,
        text=text,
        shadow=shadow,
    )
