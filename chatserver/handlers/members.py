"""member.*: what happens to one user in one room. It holds on any room id, opened or not."""

from __future__ import annotations

from typing import Any

from bridge.channels import CONTROL
from bridge.chat.commands import MemberBan, MemberKick, MemberMute, MemberUnban, MemberUnmute
from bridge.chat.events import sanction_event
from bridge.chat.state import KICK_SECONDS, SanctionType, restriction
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import handles
from chatserver.handlers.sanctions import index, now_ms, rfc3339, sanction_of, unindex


@handles(MemberMute)
async def mute(command: Command[MemberMute]) -> Effects:
    return _impose(command, "mute")


@handles(MemberBan)
async def ban(command: Command[MemberBan]) -> Effects:
    return _impose(command, "ban")


@handles(MemberUnmute)
async def unmute(command: Command[MemberUnmute]) -> Effects:
    return await _lift(command, "mute")


@handles(MemberUnban)
async def unban(command: Command[MemberUnban]) -> Effects:
    return await _lift(command, "ban")


@handles(MemberKick)
async def kick(command: Command[MemberKick]) -> Effects:
    user = command.payload.user
    event = sanction_event(
        "kick", user=user, room=command.subject_id, command_id=command.id, reason=command.reason, by=command.issued_by
    )
    # The time stays for nodes that miss the event: who joined before it is not a member any more.
    return (
        Effects()
        .set(f"kicked:{user}", now_ms(command), KICK_SECONDS)
        .publish("sanction", event, channel=CONTROL)
        .result(user=user)
    )


def _impose(command: Command[Any], kind: SanctionType) -> Effects:
    user, seconds = command.payload.user, command.payload.seconds
    sanction = sanction_of(command, kind, user=user, room=command.subject_id, seconds=seconds)
    event = sanction_event(
        kind,
        user=user,
        room=sanction.room,
        command_id=command.id,
        until=sanction.until,
        reason=command.reason,
        by=command.issued_by,
    )
    effects = Effects().set(restriction(kind, user), sanction.record(), seconds)
    return index(effects, sanction).publish("sanction", event, channel=CONTROL).result(until=rfc3339(sanction.until))


async def _lift(command: Command[Any], kind: SanctionType) -> Effects:
    user, room = command.payload.user, command.subject_id
    name = restriction(kind, user)
    held = await command.read(name) is not None
    event = sanction_event(
        "unmute" if kind == "mute" else "unban",
        user=user,
        room=room,
        command_id=command.id,
        reason=command.reason,
        by=command.issued_by,
    )
    effects = unindex(Effects().delete(name), kind, user, room)
    return effects.publish("sanction", event, channel=CONTROL).result(lifted=held)
