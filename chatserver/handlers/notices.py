"""notice.post: a notice that is part of the room's history."""

from __future__ import annotations

from bridge.chat.commands import NoticePost
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import handles


@handles(NoticePost)
async def post(command: Command[NoticePost]) -> Effects:
    notice = command.payload
    return Effects().publish("notice", {"level": notice.level, "text": notice.text, "by": command.issued_by})
