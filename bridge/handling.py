"""Run one command's handler under its time limit and say what becomes of it. Knows nothing of streams and leases."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from bridge.channels import CONTROL
from bridge.clock import ServerClock, TimeLimit
from bridge.config import BridgeSettings
from bridge.effects import BadEffects, Effects
from bridge.envelope import Command, Envelope, State, StateReader, Step, decode_or_stand_in
from bridge.errors import InvalidPayload, StateUnavailable, UnknownType
from bridge.record import Failure, outcome_head, outcome_rest
from bridge.registry import Registry
from bridge.shard_stream import Ended, RawEntry
from bridge.shards import shard_of
from bridge.telemetry import Started, Telemetry
from bridge.verdict import Bury, Done, Refuse, Verdict, judge


@dataclass(slots=True, eq=False)
class Held:
    """An entry in the holder's memory, from its delivery to its settle."""

    raw: RawEntry
    envelope: Envelope  # of an entry that cannot be read: what can be told of it
    unreadable: Bury | None
    timeline: list[Step]
    deaths: int  # starts that never ended
    failures: int  # attempts that ended with an error
    counted: bool  # a starts record exists
    began: float = 0.0  # server's clock, start of the last attempt
    handled_s: float = 0.0  # in the handler, last attempt
    dropped: bool = False  # not pending any more: whatever comes of it is ignored

    def learn(self, found: RawEntry, node: str) -> None:
        """Take over what others recorded, where somebody else than ``node`` held the entry for a while."""
        if found.starts is not None and (found.inherited_from != node or not self.counted):
            # One of them is ours, and we live: who inherits presumes a death, and what runs here again was recorded.
            ours = not self.counted or self.began > 0
            self.deaths = max(0, found.starts - ours)
            self.failures = found.failures
            self.counted = True

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands on the stream."""
        ms, _, seq = self.raw.id.partition("-")
        return int(ms), int(seq)

    @property
    def attempt(self) -> int:
        """Which attempt the next or present one is."""
        return 1 + self.failures + self.deaths

    @property
    def attempts(self) -> int:
        """How many were made."""
        return self.attempt if self.began else self.attempt - 1


def hold(shard: int, raw: RawEntry, *, presumed_deaths: int = 0) -> Held:
    """Decode what was delivered; an inherited entry without a record is presumed to have died that often."""
    envelope, fault = decode_or_stand_in(shard, raw.id, raw.fields)
    timeline = envelope.first_steps()
    if raw.inherited_from is not None:
        timeline.append(Step("handling", raw.delivered_at, raw.inherited_from))
    return Held(
        raw,
        envelope,
        Bury(fault.code, str(fault)) if fault is not None else None,
        timeline,
        deaths=presumed_deaths if raw.starts is None else raw.starts,
        failures=raw.failures,
        counted=raw.starts is not None or raw.failures > 0,
    )


class Handling:
    """The handlers of one node."""

    def __init__(
        self,
        node: str,
        registry: Registry,
        reader: StateReader,
        clock: ServerClock,
        settings: BridgeSettings,
        telemetry: Telemetry,
    ) -> None:
        self.node, self.clock = node, clock
        self._registry, self._reader = registry, reader
        self._limits, self._limit = settings.limits, TimeLimit(settings.handler_seconds)
        self._telemetry = telemetry
        self._shards = settings.shards
        self.closing = False  # whoever cancels a handler from now on means the node, not the handler

    def expired(self, held: Held) -> bool:
        expires = held.envelope.expires
        return expires is not None and self.clock.now_ms() >= expires

    async def run(self, held: Held) -> Verdict:
        """Start the handler and judge how it ended. Raises StateUnavailable, but no error of the handler's own."""
        envelope = held.envelope
        handler = self._registry.handler(envelope.type)
        if handler is None:
            return Bury("unknown_type", f"no handler for {envelope.type!r} on {self.node}")
        held.began = self.clock.now()
        held.timeline.append(Step("handling", int(held.began * 1000), self.node))
        command = self._command(held)
        if isinstance(command, Bury):
            return command
        if self._telemetry.active:
            self._telemetry.emit(Started(self.node, envelope.id, envelope.type, envelope.subject, held.attempt))
        result: Effects | BaseException | None
        task = self._limit.start()
        try:
            result = await handler(command)
        except StateUnavailable:
            self._limit.stop(task)
            raise
        except asyncio.CancelledError as error:
            result = self._too_long() if self._limit.stop(task) else error
            if self.closing:
                raise
            while task.cancelling():  # the handler's own doing, such as a timeout library's
                task.uncancel()
        except Exception as error:
            result = self._too_long() if self._limit.stop(task) and isinstance(error, TimeoutError) else error
        else:
            self._limit.stop(task)
            if not (result is None or isinstance(result, Effects)):
                result = TypeError(f"the handler returned {type(result).__name__}, not Effects or None")
            result = self._forgery(command, result) or result
        held.handled_s = self.clock.now() - held.began
        return judge(result, failures=held.failures, limits=self._limits)

    def _forgery(self, command: Command[Any], result: object) -> BadEffects | None:
        """What nodes and clients take for the vocabulary's own publications comes from its own handlers only."""
        if isinstance(result, Effects) and self._registry.get(command.type).plugin:
            for told in result.broadcasts:
                if self._registry.is_reserved(told.channel or command.subject, told.type):
                    return BadEffects(f"publish {told.type}: that name is the chat's own there; choose another")
        return None

    def _command(self, held: Held) -> Command[Any] | Bury:
        """The entry as its handler sees it, if its payload fits."""
        envelope = held.envelope
        own = shard_of(envelope.subject, self._shards)
        if own != envelope.shard:
            return Bury("undecodable", f"{envelope.subject} belongs to shard {own}, not to {envelope.shard}")
        try:
            kind = self._registry.get(envelope.type)
            if not envelope.subject.startswith(f"{kind.subject}:"):
                return Bury("undecodable", f"{envelope.type} is for {kind.subject}:…, not for {envelope.subject}")
            payload = kind.validate(envelope.payload)
            if not _is_json(envelope.payload):  # pydantic takes NaN and 1e999, which no outcome can hold
                return Bury("undecodable", "the payload holds a number that JSON does not know")
        except (InvalidPayload, UnknownType) as error:
            return Bury("undecodable", str(error))
        return Command(
            envelope.id, envelope.type, envelope.subject, payload, envelope.reason, envelope.by,
            envelope.issued_at / 1000, held.attempt, held.began, self._reader,
        )  # fmt: skip

    def _too_long(self) -> TimeoutError:
        return TimeoutError(f"the handler ran longer than {self._limit.seconds:g} s")

    def ended(self, held: Held, verdict: Verdict | None) -> Ended:
        """The record of a command that is over; None: it had expired and was not run."""
        match verdict:
            case Done(effects):
                return self._ended(held, "done", effects)
            case Refuse(reason):
                return self._ended(held, "rejected", Effects(), self._failure("rejected", reason))
        # Nobody has looked at the payload of an expired one.
        readable = _is_json(held.envelope.payload)
        return self._ended(held, "expired", Effects(), self._failure("expired", "not handled in time"), readable)

    def _ended(
        self, held: Held, state: State, effects: Effects, error: Failure | None = None, readable: bool = True
    ) -> Ended:
        attempts = held.attempts
        head = outcome_head(held.envelope, node=self.node, attempts=attempts, timeline=held.timeline, readable=readable)
        control = any(each.channel == CONTROL and each.names_command for each in effects.broadcasts)
        outcome = head + outcome_rest(
            state, self.clock.now_ms(), self.node, result=effects.facts, error=error, control=control
        )
        return Ended(held.envelope, state, attempts, held.counted, outcome, len(head), effects)

    def obituary(self, held: Held, verdict: Bury) -> tuple[int, bytes]:
        """Attempts made, and the record of a command that becomes a dead letter."""
        attempts = held.attempts
        readable = _is_json(held.envelope.payload)
        head = outcome_head(held.envelope, node=self.node, attempts=attempts, timeline=held.timeline, readable=readable)
        error = self._failure(verdict.code, verdict.cause)
        return attempts, head + outcome_rest("dead", error.at, self.node, error=error)

    def step(self, state: State) -> Step:
        """A line of a timeline, here and now."""
        return Step(state, self.clock.now_ms(), self.node)

    def _failure(self, code: str, message: str) -> Failure:
        return Failure(code, message, self.clock.now_ms())


def _is_json(payload: bytes) -> bool:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return True
