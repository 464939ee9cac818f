"""Commands by what is known of them, newest first, from the back office's own history."""

from __future__ import annotations

import re
from typing import Annotated

from aiohttp import web
from pydantic import Field

from backoffice.api.command_views import CommandView, StateName, plain
from backoffice.history import Wanted
from backoffice.intake import ID_PATTERN
from backoffice.operators import Role
from backoffice.paging import MAX_NUMBER, Paged, bad_cursor, cursor_of
from backoffice.routes import HISTORY, Call, ListOf, Route, reply
from backoffice.times import Time, ms_or_none, time_of

Name = Annotated[str, Field(max_length=100)]
_PLACE = re.compile(f"([0-9]{{1,19}}) ({ID_PATTERN[1:-1]})")


class CommandQuery(Paged):
    """Which commands."""

    type: Name | None = None
    subject: Name | None = None
    user: Name | None = Field(None, description="whom they concern: their subject, or the user whom they name")
    by: Name | None = None
    node: Name | None = None
    state: StateName | None = None
    since: Time | None = Field(None, description="issued at that time or later")
    until: Time | None = Field(None, description="issued before")
    text: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="words in the reason or the payload; the search goes back as far as time allows"
    )

    def wanted(self) -> Wanted:
        return Wanted(self.type, self.subject, self.user, self.by, self.node, self.state, ms_or_none(self.since),
                      ms_or_none(self.until), self.text)  # fmt: skip


async def listing(call: Call[CommandQuery, None]) -> web.StreamResponse:
    """Commands, newest first.

    Everything issued after `searched_until` was looked at; `complete` says that nothing older is left. A page may
    hold fewer items than `limit`, and still have a `next_cursor`. While the history is being read from the servers'
    records, after its database was lost or away, `rebuilt` is less than 1 and nothing is complete.
    """
    query = call.query
    after = _place(query.after(str))
    history = call.request.app[HISTORY]
    found, rebuilt = await history.search(query.wanted(), limit=query.limit, after=after), history.progress.share
    return reply({
        "items": [plain(outcome) for outcome in found.outcomes],
        "next_cursor": None if found.next is None else cursor_of(f"{found.next[0]} {found.next[1]}"),
        "searched_until": time_of(found.searched_until),
        "complete": found.complete and rebuilt == 1,
        "rebuilt": rebuilt,
    })  # fmt: skip


def _place(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    place = _PLACE.fullmatch(cursor)
    if place is None or int(place[1]) > MAX_NUMBER:
        raise bad_cursor()
    return int(place[1]), place[2]


_SEARCHED = ("searched_until", "complete", "rebuilt")
ROUTES = (
    Route("GET", "/commands", listing, Role.VIEWER, {200: ListOf(CommandView, _SEARCHED)}, query=CommandQuery,
          deadline_s=3.0),
)  # fmt: skip
