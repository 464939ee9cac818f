"""message.delete: what was said stays in the log, so that offsets have no gap, but is not shown any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.chat.commands import MessageDelete
from bridge.chat.history import HistoryItem, history_item
from bridge.chat.state import deleted_from
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import handles


@handles(MessageDelete)
async def delete_messages(command: Command[MessageDelete]) -> Effects:
    payload = command.payload
    if payload.message_ids is not None:
        ids = frozenset(payload.message_ids)
        return await delete(command, lambda item: item.message_id in ids)
    return await delete(command, lambda item: item.user == payload.user and item.ts >= (payload.since or 0))


async def delete(command: Command[Any], chosen: Callable[[HistoryItem], bool]) -> Effects:
    """Delete the chosen ones of what the room's log holds and does not hide yet; telling nobody if there are none.

    The list of deleted ids is written as a whole, without those that the log has dropped: bounded by the log.
    """
    raw = await command.read("deleted")
    before = deleted_from(raw if isinstance(raw, str) else None)
    kept = [item for item in (history_item(p, before) for p in await command.publications()) if item is not None]
    ids = [item.message_id for item in kept if item.deleted_by is None and chosen(item)]
    if not ids:
        return Effects().result(deleted=0)
    deleted = {item.message_id: item.deleted_by for item in kept if item.deleted_by is not None}
    deleted |= dict.fromkeys(ids, command.issued_by)
    return (
        Effects()
        .set("deleted", deleted)
        .publish("deleted", {"message_ids": ids, "by": command.issued_by})
        .result(deleted=len(ids))
    )
