"""A room's history: the messages and notices that its channel's log still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bridge.channels import Channel
from bridge.chat.publications import Message, Notice, content_of, is_kept
from bridge.chat.state import ChatStore, deleted_from, room, state_key
from bridge.envelope import Publication


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """A message or kept notice; a deleted one has no text any more."""

    message_id: str
    offset: int
    kind: Literal["message", "notice"]
    user: str | None  # None for notices
    name: str | None
    text: str | None
    level: str | None  # of notices
    ts: int
    deleted_by: str | None = None


def history_item(publication: Publication, deleted: Mapping[str, str]) -> HistoryItem | None:
    """What history shows of a publication; None for what is no message and no notice."""
    offset, ts = publication.offset, publication.at
    match content_of(publication):
        case Message(id, user, name, text):
            by = deleted.get(id)
            return HistoryItem(id, offset, "message", user, name, None if by else text, None, ts, by)
        case Notice(id, level, text):
            by = deleted.get(id)
            return HistoryItem(id, offset, "notice", None, None, None if by else text, level, ts, by)
        case _:
            return None


async def read_deleted(store: ChatStore, room_id: str) -> dict[str, str]:
    """Ids of a room's deleted messages → who deleted them."""
    return deleted_from(await store.redis.call("GET", state_key(store, room(room_id), "deleted")))


async def read_history(
    store: ChatStore, room_id: str, *, before: int | None = None, limit: int = 50
) -> list[HistoryItem]:
    """Up to ``limit`` messages and notices with offsets below ``before``, newest first; deleted ones without text."""
    deleted = await read_deleted(store, room_id)
    shown: list[HistoryItem] = []
    for publication in reversed(await read_log(store, room_id, before=before, limit=limit)):
        item = history_item(publication, deleted)
        if item is not None:
            shown.append(item)
    return shown


async def read_log(store: ChatStore, room_id: str, *, before: int | None = None, limit: int = 50) -> list[Publication]:
    """The newest ``limit`` messages and notices before an offset, oldest first."""
    channel = Channel.of_subject(room(room_id), store.shards)
    found: list[Publication] = []
    while len(found) < limit:
        page = await store.channels.log(channel, before=before, limit=max(limit, 50))
        found = [p for p in page if is_kept(p)] + found
        if not page or page[0].offset <= 1:
            break
        before = page[0].offset
    return found[-limit:]
