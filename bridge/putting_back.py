"""One pass over a shard's rows of the journal: what its server lacks is put back there, in the order of acceptance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from bridge.clock import ServerClock
from bridge.envelope import decode_or_stand_in, read_netstrings
from bridge.errors import ServerError
from bridge.journal import Journal, Row
from bridge.record import Failure, outcome_head, outcome_rest
from bridge.shard_stream import ShardStream
from bridge.telemetry import DeadLettersDropped, NotReplayed, Superseded, Telemetry

ROWS_A_CALL, BYTES_A_CALL = 50, 1 << 20
ROWS_A_LOOK = 500


class PuttingBack:
    """See the module. ``tally`` counts what became of the rows."""

    def __init__(
        self, journal: Journal, stream: ShardStream, clock: ServerClock, too_old_s: float, telemetry: Telemetry
    ) -> None:
        self.tally: Counter[str] = Counter()
        self._journal, self._stream, self._telemetry = journal, stream, telemetry
        self._clock, self._too_old_s = clock, too_old_s

    async def run(self, current: str) -> None:
        """What was cancelled or discarded first, so that it is not there for a moment in which a node reads it.

        Raises OtherHistory where the server is not ``current`` any more; what was put back stays.
        """
        withdrawn = await self._journal.withdrawn(self._stream.shard, current)
        await self._put_back(current, withdrawn)
        done = {row.number for row in withdrawn}
        after: Row | None = None
        while rows := await self._journal.rows(self._stream.shard, current, after, ROWS_A_LOOK):
            after = rows[-1]
            await self._put_back(current, [row for row in rows if row.number not in done])

    async def _put_back(self, current: str, rows: Sequence[Row]) -> None:
        now = self._clock.now()
        outdated = [row for row in rows if now - relevant(row) > self._too_old_s]
        for row in outdated:
            self._tell(row, "it is too old to tell whether it was done")
        await self._journal.forget([row.number for row in outdated])
        for batch in _batches(row for row in rows if row not in outdated):
            answers = await self._replay(current, batch)
            self.tally.update(answers)
            superseded = [row for row, answer in zip(batch, answers, strict=True) if answer == "superseded"]
            if superseded:
                await self._bury(current, superseded)
            begun = [row for row, answer in zip(batch, answers, strict=True) if answer == "late"]
            for row in begun:
                self._tell(row, "a node had begun the command")
            # What was told is not done after all on a later server, when its subject has gone on.
            await self._journal.forget([row.number for row in begun])
            await self._journal.stand([row.number for row in batch if row not in begun], current)

    async def _replay(self, current: str, rows: Sequence[Row]) -> list[str]:
        """What became of each. One that cannot be put back holds no other up: it is told, and tried on the next server.

        After an error nothing that follows in the script has run, so each is tried alone; the first are there then.
        """
        try:
            return await self._stream.replay(current, rows)
        except (ServerError, ValueError) as error:
            if len(rows) == 1:
                self._tell(rows[0], f"it cannot be put back: {error}")
                return ["failed"]
        return [answer for row in rows for answer in await self._replay(current, [row])]

    async def _bury(self, current: str, rows: Sequence[Row]) -> None:
        letters = [row._replace(operation="bury", extra=_obituary(row, self._clock.now_ms())) for row in rows]
        for row, answer in zip(rows, await self._replay(current, letters), strict=True):
            if answer in ("accepted", "dropped"):
                self._telemetry.emit(Superseded(row.shard, row.id, row.subject))
            if answer == "dropped":
                self._telemetry.emit(DeadLettersDropped(row.shard, 1))

    def _tell(self, row: Row, cause: str) -> None:
        self._telemetry.emit(NotReplayed(row.shard, row.operation, row.id, cause))


def relevant(row: Row) -> float:
    """The time from which on its idempotency key runs out; of a cancel, that of the command it ended."""
    due = row.extra if row.operation == "schedule" else b""
    if row.operation == "cancel" and row.fields:
        _, due = read_netstrings(row.fields)
    return max(row.at, int(due or 0) / 1000)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """A few at a time, as the connection has a deadline."""
    left = iter(rows)
    while batch := list(islice(left, ROWS_A_CALL)):
        while batch:
            size = count = 0
            while count < len(batch) and (not count or size < BYTES_A_CALL):
                size += len(batch[count].fields)
                count += 1
            yield batch[:count]
            batch = batch[count:]


def _obituary(row: Row, now: int) -> bytes:
    envelope, fault = decode_or_stand_in(row.shard, row.id.partition("-")[2], read_netstrings(row.fields))
    error = Failure("superseded", "its subject has had later commands since it was lost", now)
    head = outcome_head(envelope, node=None, attempts=0, timeline=envelope.first_steps(), readable=fault is None)
    return head + outcome_rest("dead", now, None, error=error)
