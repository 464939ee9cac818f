"""What is wrong with a server or with us, as findings: judgement over plain facts. `survey` gathers them.

A fact that is None is not known: no finding comes of it but the note ``not_told``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

REFUSE, WARN, UNKNOWN = "refuse", "warn", "unknown"

MOST_SKEW_S: Final = 30.0  # of a clock that chat clients' tokens are checked by
NOTED_SKEW_S: Final = 1.0
LEAST_PUBSUB_BYTES: Final = 8 << 20  # a subscriber that lags by more is cut, and reads the log
SPARE_CONSUMERS: Final = 20  # of nodes that are gone, which the next takeover of the shard removes
OLD_PENDING_S: Final = 30.0
_NAMED_SHARDS = 5  # of those that a finding is about


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. It is the same one as long as severity, code and server are."""

    severity: str  # refuse: nothing starts on it; warn; unknown: could not be looked at
    code: str
    message: str
    remedy: str
    server: str | None = None  # None: it is about no single server

    @property
    def key(self) -> tuple[str, str, str]:
        return self.severity, self.code, self.server or ""

    def __str__(self) -> str:
        where = f"{self.server}: " if self.server else ""
        return f"{where}{self.message}; {self.remedy}"


# Every finding there can be; metrics name them all, so that one that is gone is a 0.
CODES: Final = (
    (REFUSE, "evicts"), (REFUSE, "volatile"), (REFUSE, "timeout_too_long"), (REFUSE, "not_primary"),
    (REFUSE, "missing_command"), (REFUSE, "clock_skew"), (REFUSE, "settings_differ"),
    (WARN, "clock_skew"), (WARN, "min_replicas"), (WARN, "appendfsync_no"), (WARN, "pubsub_buffer"),
    (WARN, "consumers"), (WARN, "oldest_pending"), (WARN, "aof_write_failed"), (WARN, "replica_down"),
    (WARN, "no_journal"), (WARN, "settings_differ"), (WARN, "primary_away"), (UNKNOWN, "not_told"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One primary, as it tells of itself."""

    server: str
    away: bool = False  # it did not answer, so nothing else is known
    policy: str | None = None  # maxmemory-policy
    appendonly: bool | None = None
    appendfsync: str | None = None
    pubsub_bytes: int | None = None  # the lower of the two output limits of subscribers, 0 = none
    min_replicas: int | None = None  # min-replicas-to-write
    detection_s: float | None = None  # until a lost primary is noticed, where that happens at all
    detects: bool = False  # whether there is anybody to notice
    primary: bool | None = None
    aof_written: bool | None = None  # the last write to the append-only file
    replicas: int | None = None  # that it ought to have
    linked: int | None = None  # of these, in step with it
    skew_s: float | None = None  # our clock minus its own; what the way there may account for is left out
    missing: tuple[str, ...] | None = None  # commands that it does not have or does not let us use


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """The consumer group of one shard."""

    shard: int
    consumers: int
    oldest_pending_s: float | None  # since its node got it; None: nothing is pending


@dataclass(frozen=True, slots=True)
class OurFacts:
    """What this process is set to."""

    timeout_s: float  # of a call
    allow_volatile: bool = False
    journal: bool = False
    wait_replicas: int = 0


def ok(findings: Iterable[Finding]) -> bool:
    """Whether nothing is known to be wrong."""
    return all(finding.severity == UNKNOWN for finding in findings)


def judge_server(facts: ServerFacts, ours: OurFacts) -> list[Finding]:
    """Everything about one primary."""
    if facts.away:
        remedy = "see whether it runs and can be reached from here"
        return [Finding(WARN, "primary_away", "it does not answer, so it was not looked at", remedy, facts.server)]
    judged = (judgement(facts, ours) for judgement in _JUDGEMENTS)
    return [*filter(None, judged), *_not_told(facts)]


def judge_groups(groups: Sequence[GroupFacts], live_nodes: int | None) -> list[Finding]:
    """Consumers that pile up, and commands that were begun and do not end. None: nobody knows how many nodes live."""
    found = []
    piled = [g for g in groups if live_nodes is not None and g.consumers > live_nodes + SPARE_CONSUMERS]
    if piled:
        most = max(group.consumers for group in piled)
        found.append(Finding(
            WARN, "consumers", f"{_shards(piled)}: up to {most} consumers in the group, and {live_nodes} live nodes",
            "give nodes names that stay; those of the past go at the shard's next takeover, if they hold nothing",
        ))  # fmt: skip
    old = [group for group in groups if (group.oldest_pending_s or 0) > OLD_PENDING_S]
    if old:
        oldest = max(group.oldest_pending_s or 0 for group in old)
        found.append(Finding(
            WARN, "oldest_pending", f"{_shards(old)}: a command was read and has not ended after {oldest:.0f} s",
            "look at chatbridge pending: its handler hangs or is retried, or its node is paused",
        ))  # fmt: skip
    return found


def judge_replication(servers: Sequence[ServerFacts], ours: OurFacts) -> list[Finding]:
    """Whether accepted commands outlive a fail-over."""
    if ours.journal or ours.wait_replicas or not any(facts.replicas for facts in servers):
        return []
    return [Finding(
        WARN, "no_journal", "there are replicas, and neither a journal nor BRIDGE_WAIT_REPLICAS: a fail-over may lose "
        "commands that were accepted", "set BRIDGE_JOURNAL to a directory, or BRIDGE_WAIT_REPLICAS=1",
    )]  # fmt: skip


def settings_differ(message: str, remedy: str, *, severity: str = REFUSE) -> Finding:
    """Redis holds what another installation, version or setting wrote."""
    return Finding(severity, "settings_differ", message, remedy)


def not_told(what: str, server: str | None = None) -> Finding:
    """Nobody could look at it."""
    remedy = "see to it yourself, or let our user run CONFIG GET and INFO"
    return Finding(UNKNOWN, "not_told", f"not checked: {what}", remedy, server)


def _evicts(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if facts.policy in (None, "noeviction"):
        return None
    message = f"Redis evicts keys when it is full (maxmemory-policy {facts.policy}), commands among them"
    return Finding(REFUSE, "evicts", message, "set it to noeviction", facts.server)


def _volatile(facts: ServerFacts, ours: OurFacts) -> Finding | None:
    if facts.appendonly is not False or ours.allow_volatile:
        return None
    message = "Redis keeps no append-only file, so a restart loses accepted commands"
    remedy = "set appendonly yes, or BRIDGE_ALLOW_VOLATILE=1 to accept that"
    return Finding(REFUSE, "volatile", message, remedy, facts.server)


def _timeout_too_long(facts: ServerFacts, ours: OurFacts) -> Finding | None:
    if facts.detection_s is None or ours.timeout_s <= facts.detection_s / 2:
        return None
    message = (
        f"a lost primary is noticed after {facts.detection_s:g} s, less than twice the {ours.timeout_s:g} s that a "
        "call may take: one that hangs could take effect on a primary of the past"
    )
    remedy = f"set cluster-node-timeout or down-after-milliseconds to {ours.timeout_s * 2000:.0f} or more"
    return Finding(REFUSE, "timeout_too_long", message, remedy, facts.server)


def _not_primary(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if facts.primary is not False:
        return None
    remedy = "let BRIDGE_REDIS_URL name the primary, or its sentinels (redis+sentinel://), or its cluster"
    return Finding(REFUSE, "not_primary", "this is a replica, which takes no writes", remedy, facts.server)


def _missing_command(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if not facts.missing:
        return None
    message = f"the server lacks commands, or forbids them to us: {', '.join(facts.missing)}"
    remedy = "use Redis 7.0, Valkey 8 or newer, and let the user run them on its keys and channels (ACL SETUSER)"
    return Finding(REFUSE, "missing_command", message, remedy, facts.server)


def _clock_skew(facts: ServerFacts, _: OurFacts) -> Finding | None:
    return judge_skew(facts.skew_s or 0.0, facts.server)


def judge_skew(skew_s: float, server: str | None = None) -> Finding | None:
    """This machine's clock minus the server's."""
    if abs(skew_s) <= NOTED_SKEW_S:
        return None
    severity = REFUSE if abs(skew_s) > MOST_SKEW_S else WARN
    message = f"this machine's clock is {skew_s:+.1f} s off the server's"
    return Finding(severity, "clock_skew", message, "set it right (NTP) on both", server)


def _min_replicas(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if not facts.min_replicas or facts.replicas is None or facts.min_replicas < facts.replicas:
        return None
    message = (
        f"min-replicas-to-write is {facts.min_replicas} and there are {facts.replicas} replicas: without one of them, "
        "as after a fail-over, every write is refused"
    )
    return Finding(WARN, "min_replicas", message, "have more replicas than that, or set it lower", facts.server)


def _appendfsync_no(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if facts.appendfsync != "no":
        return None
    message = "appendfsync is no: a power cut loses what the system had not written, often half a minute of commands"
    return Finding(WARN, "appendfsync_no", message, "set it to everysec or always", facts.server)


def _pubsub_buffer(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if not facts.pubsub_bytes or facts.pubsub_bytes >= LEAST_PUBSUB_BYTES:
        return None
    message = f"a subscriber that lags by {facts.pubsub_bytes} bytes is cut off, and has to read logs"
    remedy = "set client-output-buffer-limit pubsub to 32mb 8mb 60 or more"
    return Finding(WARN, "pubsub_buffer", message, remedy, facts.server)


def _aof_write_failed(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if facts.aof_written is not False:
        return None
    message = "the last write to the append-only file failed: a restart would lose what came after it"
    return Finding(WARN, "aof_write_failed", message, "look at the server's log and its disk", facts.server)


def _replica_down(facts: ServerFacts, _: OurFacts) -> Finding | None:
    if facts.replicas is None or facts.linked is None or facts.linked >= facts.replicas:
        return None
    message = f"{facts.replicas - facts.linked} of {facts.replicas} replicas do not follow"
    remedy = "start them, or look why they lag; what was accepted meanwhile is on fewer servers"
    return Finding(WARN, "replica_down", message, remedy, facts.server)


_JUDGEMENTS: tuple[Callable[[ServerFacts, OurFacts], Finding | None], ...] = (
    _evicts, _volatile, _timeout_too_long, _not_primary, _missing_command, _clock_skew, _min_replicas, _appendfsync_no,
    _pubsub_buffer, _aof_write_failed, _replica_down,
)  # fmt: skip


def _not_told(facts: ServerFacts) -> list[Finding]:
    """What nobody could look at: hosted servers close CONFIG, and their operators decide."""
    told = {
        "maxmemory-policy": facts.policy, "appendonly": facts.appendonly, "appendfsync": facts.appendfsync,
        "client-output-buffer-limit": facts.pubsub_bytes, "min-replicas-to-write": facts.min_replicas,
        "role": facts.primary, "aof_last_write_status": facts.aof_written, "replicas": facts.replicas,
        "clock": facts.skew_s, "commands": facts.missing,
    }  # fmt: skip
    if facts.detects:
        told["fail-over detection"] = facts.detection_s
    hidden = [name for name, value in told.items() if value is None]
    return [not_told(", ".join(hidden), facts.server)] if hidden else []


def _shards(groups: Sequence[GroupFacts]) -> str:
    numbers = ", ".join(str(group.shard) for group in groups[:_NAMED_SHARDS])
    more = f" and {len(groups) - _NAMED_SHARDS} more" if len(groups) > _NAMED_SHARDS else ""
    return f"{'shard' if len(groups) == 1 else 'shards'} {numbers}{more}"
