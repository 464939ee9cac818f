"""What servers and this process must be like: refused at the start, reported while it runs.

While it runs a fault ends no process, since all processes see the same server and a fleet that stopped would help
nobody: it is a finding, an event when it appears and when it is cleared, and a figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import asdict
from math import inf

from bridge import findings, survey
from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.errors import BridgeError, Misconfigured, Unreachable
from bridge.findings import Finding, OurFacts
from bridge.keys import Keys
from bridge.telemetry import FaultCleared, FaultFound, StepFailed, Telemetry
from bridge.verdict import describe

SCHEMA_VERSION = "1"
_SECONDS = "outcome_seconds"
EVERY_S = 60.0
AGAIN_S = 10.0  # while something is wrong, so that it is seen to be mended
_AT_MOST_EVERY_S = 1.0


class SelfCheck:
    """``start`` once, then ``run``; ``step`` is one look. ``findings`` are those of the last."""

    def __init__(
        self, redis: Redis, keys: Keys, settings: BridgeSettings, telemetry: Telemetry, *, publishes: bool
    ) -> None:
        self._publishes = publishes  # else it is not for this process to keep what it accepted
        self._redis, self._keys, self._settings, self._telemetry = redis, keys, settings, telemetry
        self.findings: tuple[Finding, ...] = ()
        self.checked_at = 0.0  # seconds since the epoch, this machine's clock; 0 = never
        self._moved = asyncio.Event()  # a primary may be another one, or have lived another life
        self._looked_at = -inf  # loop time
        self._looking = asyncio.Lock()
        redis.on_moved(self._moved.set)
        redis.on_connected(self._moved.set)

    @property
    def ok(self) -> bool:
        """Whether the last look found nothing wrong."""
        return findings.ok(self.findings)

    async def start(self) -> None:
        """The first look. Raises Misconfigured with every fault that is refused and its remedy, Unreachable.

        A clock that is wrong is refused by nodes only: they check clients' tokens by it.
        """
        found = await self._servers()
        refused = [f for f in found if f.severity == findings.REFUSE and f.code != "clock_skew"]
        if refused:
            raise Misconfigured("\n".join(dict.fromkeys(map(str, refused))))
        agreed = await agree(self._redis, self._keys, self._settings)
        found += self._other_seconds(agreed)
        self._moved.clear()
        with contextlib.suppress(Unreachable):  # a shard that is being moved answers later; these are warnings
            found += await self._groups()
        self._note(found)

    async def step(self) -> None:
        """Look at everything. Raises Unreachable; the findings stay as they were then."""
        found = await self._servers()
        away = {finding.server for finding in found if finding.code == "primary_away"}
        stand = [f for f in self.findings if f.server in away and f.code != "primary_away"]  # until it can be looked at
        self._note([*found, *stand, *await self._groups(), *await self._differing()])

    async def run(self) -> None:
        """Every minute, and at once where a primary may have been replaced, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S if self.ok else AGAIN_S):
                    await self._moved.wait()
            await asyncio.sleep(max(0.0, self._looked_at + _AT_MOST_EVERY_S - _loop_time()))
            self._moved.clear()
            try:
                await self.fresh(0.0)
            except Unreachable:  # who needs Redis says so
                pass
            except Exception as error:
                self._telemetry.emit(StepFailed("self-check", describe(error)))

    async def fresh(self, max_age_s: float) -> None:
        """Look unless that was done within ``max_age_s``; who asks meanwhile shares the look. Raises Unreachable."""
        async with self._looking:
            if _loop_time() - self._looked_at > max_age_s:
                await self.step()

    async def _servers(self) -> list[Finding]:
        facts = await survey.servers(self._redis, self._keys)
        ours = OurFacts(
            self._redis.timeout,
            self._settings.allow_volatile,
            self._settings.journal is not None,
            self._settings.wait_replicas,
        )
        found = [finding for each in facts for finding in findings.judge_server(each, ours)]
        return [*found, *findings.judge_replication(facts, ours)] if self._publishes else found

    async def _groups(self) -> list[Finding]:
        try:
            groups, live = await asyncio.gather(
                survey.groups(self._redis, self._keys, self._settings.shards),
                survey.live_nodes(self._redis, self._keys, self._settings.lease_seconds),
            )
        except Unreachable:
            raise
        except BridgeError as error:
            return [findings.not_told(f"consumer groups ({error})")]
        return findings.judge_groups(groups, live)

    async def _differing(self) -> list[Finding]:
        try:
            found = await self._redis.call("HGETALL", self._keys.meta)
        except Unreachable:  # another primary answers
            return [f for f in self.findings if f.code == "settings_differ"]
        try:
            _compare(found, self._settings, missing_is_well=True)
        except Misconfigured as error:
            message, _, remedy = str(error).rpartition("; ")
            return [findings.settings_differ(message, remedy), *self._other_seconds(found)]
        return self._other_seconds(found)

    def _other_seconds(self, found: dict[bytes, bytes]) -> list[Finding]:
        """Replays go by outcomes: one that was kept for less than its publisher thinks lets a command run again."""
        ours = self._settings.outcome_seconds
        stored = found.get(_SECONDS.encode(), b"%d" % ours).decode()
        if stored == str(ours):
            return []
        message = (
            f"outcomes and idempotency keys live {stored} s in namespace {self._settings.namespace!r}, and {ours} s "
            "where this process writes them: after a fail-over a command could run twice"
        )
        remedy = (
            f"set BRIDGE_OUTCOME_SECONDS={stored} here; to change it everywhere, "
            f"HSET {self._keys.meta} {_SECONDS} {ours} and set it on all"
        )
        return [findings.settings_differ(message, remedy, severity=findings.WARN)]

    def _note(self, found: list[Finding]) -> None:
        before = {finding.key: finding for finding in self.findings}
        now = {finding.key: finding for finding in found}
        for key, finding in now.items():
            if key not in before:
                self._telemetry.emit(FaultFound(**asdict(finding)))
        for key, finding in before.items():
            if key not in now:
                self._telemetry.emit(FaultCleared(finding.severity, finding.code, finding.server))
        self.findings, self.checked_at, self._looked_at = tuple(found), time.time(), _loop_time()


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def count(check: SelfCheck, severity: str, code: str) -> int:
    """How many such findings there are now, for metrics."""
    return sum((finding.severity, finding.code) == (severity, code) for finding in check.findings)


async def agree(redis: Redis, keys: Keys, settings: BridgeSettings) -> dict[bytes, bytes]:
    """Everybody must count the same shards: they are written once. Raises Misconfigured on another count or schema.

    What is stored. How long outcomes live ought to be the same, too, and is not refused.
    """
    found: dict[bytes, bytes] = await redis.call("HGETALL", keys.meta)
    wanted = {} if found else _wanted(settings)
    if _SECONDS.encode() not in found:
        wanted[_SECONDS] = str(settings.outcome_seconds)
    if wanted:
        await asyncio.gather(*(redis.call("HSETNX", keys.meta, name, value) for name, value in wanted.items()))
        found = await redis.call("HGETALL", keys.meta)
    _compare(found, settings)
    return found


async def installation(redis: Redis, keys: Keys) -> str:
    """The name of what is kept in this Redis; made up once."""
    found = await redis.call("HGET", keys.meta, "installation")
    if found is None:
        await redis.call("HSETNX", keys.meta, "installation", secrets.token_hex(8))
        found = await redis.call("HGET", keys.meta, "installation")
    return str(found.decode())


def _wanted(settings: BridgeSettings) -> dict[str, str]:
    return {"shards": str(settings.shards), "schema": SCHEMA_VERSION}


def _compare(found: dict[bytes, bytes], settings: BridgeSettings, *, missing_is_well: bool = False) -> None:
    if missing_is_well and not found:  # FLUSHALL: the next to start writes it anew
        return
    for name, value in _wanted(settings).items():
        stored = found.get(name.encode(), b"").decode()
        if stored != value:
            raise Misconfigured(
                f"namespace {settings.namespace!r} was set up with {name} {stored}, not {value}; "
                f"set BRIDGE_SHARDS={stored} or use another BRIDGE_NAMESPACE"
                if name == "shards"
                else f"namespace {settings.namespace!r} has schema {stored}; this version knows {value}"
            )
