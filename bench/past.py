"""A long past of a back office: commands as its history keeps them and entries as its audit chain does, made fast."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import orjson
from sqlalchemy import Connection, func, select

from backoffice import audit_rows, history_rows
from backoffice.records import Records
from backoffice.tables import commands
from bridge.envelope import Step
from bridge.record import Outcome

DAYS = 90
USERS, ROOMS, OPERATORS, NODES = 20_000, 500, 30, 8
RARE = "u-rare"  # a user of whom only the first 200 commands tell
OF_RARE = 200
_AT_ONCE = 5000
_TYPES = ("member.mute", "member.unmute", "member.kick", "member.ban", "message.delete", "user.warn", "user.ban")
_STATES = ("done",) * 94 + ("rejected",) * 3 + ("expired", "cancelled", "dead")
_REASONS = ("spam", "욕설 및 비방", "advertising in the lobby", "flooding", "asked to stop twice", "도배")


async def make(records: Records, count: int, say: Callable[[int], None] = lambda made: None) -> None:
    """That many commands and entries, the oldest first; those that are there already stay."""
    async with records.reading() as connection:
        there = (await connection.execute(select(func.count()).select_from(commands))).scalar_one()
    made = itertools.islice(outcomes(count), there, None)
    while batch := list(itertools.islice(made, _AT_ONCE)):
        await records.transact(partial(_write, batch))
        there += len(batch)
        say(there)


def _write(batch: Sequence[Outcome], connection: Connection) -> None:
    """By the very code that feeds the history and writes the chain."""
    history_rows.ENDED.write(connection, history_rows.rows(batch))
    audit_rows.append("bench", None, list(map(_line, batch)), connection)


def _line(outcome: Outcome) -> audit_rows.Line:
    number = int(outcome.id.rpartition("-")[2])
    action = "tokens.make" if number % 100_000 == 0 else "commands.cancel" if number % 50 == 0 else "commands.issue"
    request = f"bench-{number}"
    detail = {"type": outcome.type, "payload": outcome.payload}
    act = audit_rows.Act(outcome.issued_by, action, outcome.subject, "127.0.0.1", request, outcome.reason, detail)
    return audit_rows.Line(act, orjson.dumps(detail).decode(), f"accepted {outcome.id}", None, outcome.issued_at)


def outcomes(count: int) -> Iterator[Outcome]:
    """The same ones each time, evenly over the last days; the first ones are of a user who is in no others."""
    some = random.Random(7)
    begin, step = int(time.time() * 1000) - DAYS * 86_400_000, DAYS * 86_400_000 / count
    for number in range(count):
        at = begin + int(number * step)
        type_ = some.choice(_TYPES)
        user = RARE if number < OF_RARE else f"u{some.randrange(USERS)}"
        in_room = not type_.startswith("user.")
        subject = f"room:r{some.randrange(ROOMS)}" if in_room else f"user:{user}"
        payload = {"user": user, "seconds": 600} if in_room else {"seconds": 600}
        state, node = some.choice(_STATES), f"node-{some.randrange(NODES)}"
        steps = (Step("accepted", at), Step("handling", at + 3, node), Step(state, at + 5, node))
        yield Outcome(
            f"{some.randrange(64)}-{at}-{number}", type_, subject, payload, some.choice(_REASONS),
            f"operator-{some.randrange(OPERATORS)}", at, None, f"key-{number}", None, state, node, 1, steps,
            result={"until": at + 600_000} if state == "done" else None,
        )  # fmt: skip
