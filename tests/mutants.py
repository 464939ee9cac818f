"""Take out one safeguard at a time and expect the suite to fail: ``python -m tests.mutants [NAME …]``.

Each mutant is a patch of the text, made in a copy of the tree. The tests that should
notice run there, first on the copy as it is, which has to be green. Exit status 1 if a
mutant survives, if its text is not found, or if the tests fail without it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", "dist", "build", "*.egg-info", ".hypothesis"
)
MINUTES = 10  # for one run of tests; one that hangs is red, too
GREEN, RED = 0, 1  # of pytest's exit codes; others mean that nothing was tested

LEASE, HAZARDS = "tests/conformance/test_lease.py", "tests/conformance/test_hazards.py"
HANDLING, APPEND = "tests/conformance/test_handling.py", "tests/conformance/test_append.py"
NODES = "tests/faults/test_nodes.py"
PRESENCE, SIGHTINGS = "tests/conformance/test_presence.py", "tests/bridge/test_presence.py"
CHECK = "tests/conformance/test_self_check.py"
CLIENT = "tests/chat/test_client.py"
AUDIT_FAULTS = "tests/backoffice/test_audit_faults.py"
JOURNAL, JOURNAL_FILES = "tests/conformance/test_journal.py", "tests/conformance/test_journal_files.py"
SIGN_ON, GUESSES, STOLEN, PRIVATE = (
    f"tests/backoffice/test_{name}.py" for name in ("single_sign_on", "guesses", "stolen", "private")
)
BROWSER, IN_JS = "chatserver/static/client.js", "tests/browser/test_client.py"
UNLUCKY_IN_JS = "tests/browser/test_client_schedules.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One safeguard less."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # files, and with ``-k`` which tests of them

    def apply(self, tree: Path) -> bool:
        """Whether the text was there, exactly once."""
        path = tree / self.file
        text = path.read_text()
        path.write_text(text.replace(self.old, self.new))
        return text.count(self.old) == 1


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    killed: bool
    how: str
    seconds: float


MUTANTS = (
    Mutant("fence", "bridge/scripts/fence.lua", "if held == token then", "if true then", (LEASE,)),
    Mutant("claim", "bridge/worker.py", "while page:", "while not page:", (HAZARDS, NODES, "-k", "death or killed")),
    Mutant("idempotency check", "bridge/scripts/append.lua", "if id then", "if false then", (APPEND,)),
    Mutant(
        "XACK guard", "bridge/scripts/settle.lua",
        "if call('XACK', KEYS[4], group, id) == 0 then", "call('XACK', KEYS[4], group, id)\n  if false then",
        ("tests/conformance/test_shard_stream.py", HAZARDS),
    ),
    Mutant(
        "incarnation", "bridge/scripts/incarnation.lua",
        "if redis.call('GET', incarnation_key) == current then", "if true then", (HAZARDS,),
    ),
    Mutant(
        "epoch rises on release", "bridge/scripts/release.lua",
        "redis.call('INCR', KEYS[2])", "redis.call('GET', KEYS[2])", (LEASE,),
    ),
    Mutant(
        "own epoch raised after an error", "bridge/worker.py",
        "lease = await self._stream.acquire(self._owner)", "lease = self.lease", (HAZARDS,),
    ),
    Mutant(
        "order of a subject", "bridge/lines.py",
        "elif not (line.busy or line.timer", "elif not (line.timer", (HANDLING, HAZARDS),
    ),
    Mutant(
        "suspects run alone", "bridge/lines.py", "= True, must_run_alone(", "= True, False and must_run_alone(",
        (HAZARDS, "-k", "suspect"),
    ),
    Mutant(
        "limit of deaths", "bridge/verdict.py", "if deaths < limits.deaths:", "if True:", (HAZARDS, "-k", "deaths"),
    ),
    Mutant(
        "suspects run alone while results settle", "bridge/lanes.py",
        "        if alone:\n            self._alone = False", "        self._alone = False",
        ("tests/bridge/test_lanes.py",),
    ),
    Mutant(
        "results set aside", "bridge/settling.py",
        "self._lines.set_aside(line)\n\n    def go_on", "pass\n\n    def go_on",
        ("tests/conformance/test_away.py",),
    ),
    Mutant(
        "dropped for good", "bridge/worker.py", "if held.dropped or self._rolled_back", "if self._rolled_back",
        ("tests/conformance/test_recovery.py", "-k", "fail_over"),
    ),
    Mutant(
        "boot of who leaves", "bridge/scripts/drain.lua", "~= ARGV[2] then", "~= ARGV[2] and false then",
        ("tests/conformance/test_nodes.py", "-k", "successor"),
    ),
    Mutant("group begins at 0", "bridge/scripts/acquire.lua", "'0', 'MKSTREAM'", "'$', 'MKSTREAM'", (HAZARDS,)),
    Mutant(
        "time limit of handlers", "bridge/handling.py", "settings.handler_seconds", "3600.0",
        (HANDLING, "-k", "hangs"),
    ),
    Mutant(
        "check of effects", "bridge/scripts/settle.lua", "local cause = fault()", "local cause = nil",
        (HAZARDS, "-k", "effects"),
    ),
    Mutant(
        "limit of the backlog", "bridge/scripts/append.lua", "if backlog >= tonumber(ARGV[1]) then", "if false then",
        (APPEND, "-k", "backlog"),
    ),
    Mutant(
        "row written before the answer", "bridge/journal.py", "        await written\n", "",
        (JOURNAL_FILES, "-k", "killed"),
    ),
    Mutant(
        "intent before the effect", "backoffice/audit.py",
        "            await written\n", "            pass\n", (AUDIT_FAULTS, "-k", "goes_out"),
    ),
    Mutant(
        "own rows before new commands", "bridge/scripts/append.lua",
        "if ARGV[7] ~= current and ARGV[7] ~= '' then", "if false then", (JOURNAL, "-k", "publishers_own"),
    ),
    Mutant(
        "others wait for a replay", "bridge/scripts/history.lua",
        "if awaited and now < ends then", "if false then", (JOURNAL, "-k", "wait_for_each_other or five_seconds"),
    ),
    Mutant(
        "superseded", "bridge/scripts/newer.lua",
        "if last and (last > ms or incarnation == current) then", "if false then", (JOURNAL, "-k", "undo"),
    ),
    Mutant(
        "order of a replay", "bridge/putting_back.py",
        "[row for row in rows if row.number not in done]", "[row for row in rows[::-1] if row.number not in done]",
        (JOURNAL, "-k", "order"),
    ),
    Mutant(
        "replay finds what is there", "bridge/scripts/replay.lua",
        "  if is_there() or repeated_since() then\n    return 'there'\n  elseif superseded() then",
        "  if superseded() then", (JOURNAL,),
    ),
    Mutant(
        "keys of commands that are gone", "bridge/scripts/duplicate.lua",
        "if trace(ARGV[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]) then", "if true then",
        (JOURNAL, "-k", "counts_only"),
    ),
    Mutant(
        "new epoch of channels on another server", "bridge/scripts/publish.lua",
        "or string.sub(epoch, -8) ~= incarnation then", "then", ("tests/topology/test_partitions.py",),
    ),
    Mutant(
        "publishing while the nodes' primary is away", "bridge/publisher.py",
        "self._good_at < _TYPES_TRUSTED_S", "self._good_at < 0",
        ("tests/topology/test_partial_outages.py", "-k", "nodes"),
    ),
    Mutant(
        "repetition of what was done after all", "bridge/worker.py",
        "if first is not None and await", "if False and first is not None and await",
        ("tests/conformance/test_journal.py", "-k", "does_nothing_where"),
    ),
    Mutant(
        "scheduled commands wait for a replay", "bridge/scripts/promote.lua", "if wait then", "if false then",
        ("tests/conformance/test_journal.py", "-k", "falls_due"),
    ),
    Mutant(
        "heartbeats while a primary is away", "bridge/node.py",
        "done, _ = await asyncio.wait((self._assigning,), timeout=self._beat_s)",
        "done, _ = await asyncio.wait((self._assigning,))",
        ("tests/conformance/test_away.py", "-k", "signs"),
    ),
    Mutant(
        "renewal of leases", "bridge/assignment.py",
        "workers = list(self._workers.values())", "workers = list[Worker]()",
        ("tests/faults/test_handlers.py", "-k", "longer"),
    ),
    Mutant(
        "gap recovery", "bridge/subscriptions.py", "elif subscription.on_gap is not None:", "elif False:",
        ("tests/chatserver/test_follower.py", "-k", "dropped or silence"),
    ),
    Mutant(
        "word of sentinels", "bridge/sentinel.py", "RESTLESS_S\n                heard()", "RESTLESS_S",
        ("tests/topology/test_sentinels.py", "-k", "next"),
    ),
    Mutant(
        "a promotion before its sentinel sees it", "bridge/sentinel.py",
        "promoted = await self._promoted(sentinel, timeout)", "promoted = None",
        ("tests/topology/test_sentinels.py", "-k", "before"),
    ),
    Mutant(
        "user check of say", "chatserver/state.py",
        "(user_now.now, _verdict(user_now), length", '(user_now.now, "", length',
        ("tests/journeys/test_leaks.py", "-k", "whatever"),
    ),
    Mutant(
        "room check of say", "chatserver/scripts/say.lua", "or muted then", "then",
        ("tests/journeys/test_leaks.py", "-k", "whatever"),
    ),
    Mutant(
        "a command's event once", "chatserver/control.py", "if not self._applied.knows(command_id, event):", "if True:",
        ("tests/chatserver/test_receipts.py", "-k", "again"),
    ),
    Mutant(
        "receipts written again", "chatserver/control.py",
        "for command_id in self._applied.within(REPORT_AGAIN_S):", "for command_id in list[str]():",
        ("tests/chatserver/test_receipts.py", "-k", "took_back"),
    ),
    Mutant(
        "reload at start", "chatserver/control.py",
        "        self._reload()  # what was read before", "        # what was read before",
        ("tests/chatserver/test_control.py", "-k", "starts"),
    ),
    Mutant(
        "user kick in the state", "chatserver/handlers/users.py", 'Effects().set("kicked_at", now, KICK_SECONDS)',
        "Effects()", ("tests/chatserver/test_control.py", "-k", "no_channel"),
    ),
    Mutant(
        "member kick in the state", "chatserver/handlers/members.py",
        '        .set(f"kicked:{user}", now_ms(command), KICK_SECONDS)\n', "",
        ("tests/chatserver/test_control.py", "-k", "no_channel"),
    ),
    Mutant(
        "warning in the state", "chatserver/handlers/users.py",
        'Effects().set("warned", {**event, "at": now_ms(command)}, KICK_SECONDS)', "Effects()",
        ("tests/chatserver/test_control.py", "-k", "no_channel"),
    ),
    Mutant(
        "bans found in the state", "chatserver/control.py", 'if "ban" in listed.user.sanctions:', "if False:",
        ("tests/chatserver/test_control.py", "-k", "no_channel"),
    ),
    Mutant(
        "browser client fills holes", BROWSER,
        "else if (push.offset > room.offset + 1) this.#rejoin(push.room)", "", (IN_JS, "-k", "swallowed"),
    ),
    Mutant(
        "browser client repeats with its nonce", BROWSER, "nonce = newNonce()) {", "nonce) {",
        (IN_JS, "-k", "answer_is and not chromium"),
    ),
    Mutant(
        "browser client keeps so many events", BROWSER,
        "if (!this.#put(push, QUEUE)) return false", "this.#put(push, Infinity)",
        (IN_JS, "-k", "does_not_read and not chromium"),
    ),
    Mutant(
        "browser client says nothing again after a sleep", BROWSER, "if (Date.now() > call.until)", "if (false)",
        (UNLUCKY_IN_JS, "-k", "sleep"),
    ),
    Mutant(
        "browser client calls nothing unsaid", BROWSER, "if (call.type === 'say' && call.repeated)", "if (false)",
        (UNLUCKY_IN_JS, "-k", "unsaid and kicked"),
    ),
    Mutant(
        "browser client stays away", BROWSER, "if (code >= 4500 && code < 5000)", "if (false)",
        (IN_JS, "-k", "final and 4999"),
    ),
    Mutant(
        "nonce of the client", "bridge/chat/client.py",
        '"text": text, "nonce": nonce or secrets.token_urlsafe(12)}', '"text": text}',
        (CLIENT, "-k", "answer_was_lost"),
    ),
    Mutant(
        "gap in the client", "bridge/chat/client_rooms.py",
        "return Order.NEXT if offset == last + 1 else Order.JUMP", "return Order.NEXT",
        (CLIENT, "-k", "did_not_come"),
    ),
    Mutant(
        "late reader of the client", "bridge/chat/client.py",
        "        self._rooms.space()\n", "", (CLIENT, "-k", "late_gets"),
    ),
    Mutant(
        "frames as documented", "chatserver/frames.py",
        'return encode({"type": "reconnect", "after_ms": after_ms, "reason": reason})',
        'return encode({"type": "reconnect", "after_ms": after_ms, "why": reason})', (CLIENT, "-k", "told_it_to"),
    ),
    Mutant("missed if seen before", "bridge/presence.py", "elif name in self._seen:", "else:", (SIGHTINGS, PRESENCE)),
    Mutant("three looks", "bridge/presence.py", "absence.looks >= LOOKS", "True", (SIGHTINGS,)),
    Mutant(
        "a tenth of a second apart", "bridge/presence.py", "now - absence.since >= (LOOKS - 1) * AGAIN_S - _EARLY_S",
        "True", (SIGHTINGS,),
    ),
    Mutant(
        "a heartbeat is a sign of life", "bridge/presence.py", "if absence.beat != beats.get(name)]",
        "if name not in beats]", (SIGHTINGS,),
    ),
    Mutant(
        "sightings of one server", "bridge/presence.py", "if link is not self._link:", "if self._link is None:",
        (PRESENCE, "-k", "cut or restart"),
    ),
    Mutant(
        "subscribed oneself", "bridge/presence.py", "if not subscribed.pop(self._node):",
        "if not subscribed.pop(self._node) and False:", (PRESENCE, "-k", "speaks_up"),
    ),
    Mutant(
        "a cut begins anew", "bridge/presence.py", "self._era += 1\n        self._sightings.forget()", "pass",
        (PRESENCE, "-k", "before_a_cut"),
    ),
    Mutant(
        "alive without a subscription", "bridge/presence.py", "await self._beat()", "pass",
        (PRESENCE, "-k", "robbed or speaks_up"),
    ),
    Mutant(
        "the lease that was seen", "bridge/scripts/acquire.lua", "held ~= ARGV[4] or", "",
        (PRESENCE, "-k", "lease"),
    ),
    Mutant(
        "not renewed since", "bridge/scripts/acquire.lua", "or ARGV[3] - left < tonumber(ARGV[5])", "",
        (PRESENCE, "-k", "lease"),
    ),
    Mutant(
        "vanished nodes are not waited for", "bridge/assignment.py", "answer.by in self._vanished", "False",
        (PRESENCE, "-k", "killed"),
    ),
    Mutant("refused at the start", "bridge/self_check.py", "        if refused:", "        if False:", (CHECK,)),
    Mutant(
        "a connection is reason to look", "bridge/self_check.py", "redis.on_connected(self._moved.set)", "pass",
        (CHECK,),
    ),
    Mutant(
        "an ID token is of this login", "backoffice/oidc.py", 'if claims["nonce"] != attempt.nonce:', "if False:",
        (SIGN_ON, "-k", "believed"),
    ),
    Mutant(
        "an ID token is for this client", "backoffice/oidc.py", '"value": self._client_id}}', '"value": None}}',
        (SIGN_ON, "-k", "believed"),
    ),
    Mutant(
        "only the provider signs", "backoffice/oidc.py", "JWSRegistry(algorithms=ALGORITHMS)",
        'JWSRegistry(algorithms=[*ALGORITHMS, "none", "HS256"])', (SIGN_ON, "-k", "believed"),
    ),
    Mutant(
        "a login ends in the browser where it began", "backoffice/ui/single_sign_on.py",
        'not compare_digest(given.get("state", "").encode(), attempt.state.encode())', "False",
        (SIGN_ON, "-k", "refused or counts"),
    ),
    Mutant(
        "guesses side by side", "backoffice/api/session.py", "throttle.failed(*keys)", "pass",
        (GUESSES, "-k", "own_address"),
    ),
    Mutant(
        "unknown names cost a hash", "backoffice/passwords.py",
        "await self._run(_verify, password, hashed or _nobody) and hashed is not None",
        "hashed is not None and await self._run(_verify, password, hashed)", (GUESSES, "-k", "thousand"),
    ),
    Mutant(
        "a password that was changed meanwhile", "backoffice/people.py", "operators.c.password == hashed, ", "",
        (STOLEN, "-k", "while_logging and sqlite"),
    ),
    Mutant(
        "streams end with their session", "backoffice/access.py", "return await self.people.holds(session)",
        "return True", (STOLEN, "-k", "disabled and sqlite"),
    ),
    Mutant(
        "no session in plain HTTP beyond loopback", "backoffice/proxies.py",
        'return is_loopback(URL(f"http://{request.host}").host or "")', "return True", (PRIVATE,),
    ),
    Mutant(
        "cookies begin behind a semicolon", "backoffice/access.py",
        '(hdrs.COOKIE, ())).split(";")', '(hdrs.COOKIE, ())).replace(" ", ";").split(";")',
        (PRIVATE, "-k", "another_cookies"),
    ),
    Mutant(
        "the last line of X-Forwarded-For", "backoffice/proxies.py",
        '",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ()))', 'request.headers.get(hdrs.X_FORWARDED_FOR, "")',
        (PRIVATE, "-k", "address_is"),
    ),
    Mutant(
        "who does not read is cut off", "backoffice/api/long_answers.py", "request.transport.abort()", "pass",
        (STOLEN, "-k", "not_read"),
    ),
)  # fmt: skip


@contextmanager
def copied() -> Iterator[Path]:
    """The tree, as it is now."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory, "tree")
        shutil.copytree(REPOSITORY, tree, ignore=LEFT_OUT)
        yield tree


def run(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Exit code of the tests there, and the first that failed. On one engine: the safeguards are the same on all."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "60", *_on_one(tests)]
    environment = {**os.environ, "PYTHONPATH": os.fspath(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=MINUTES * 60, check=False
        )
    except subprocess.TimeoutExpired:
        return RED, f"hung for {MINUTES} min"
    failed = re.search(r"^(?:FAILED|ERROR) \S*::(\S+)", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else (done.stdout + done.stderr)[-300:].strip()


def _on_one(tests: Iterable[str]) -> list[str]:
    words = list(tests)
    others = "not redis-7.0 and not redis-8"
    if "-k" in words:
        return [*words[:-1], f"({words[-1]}) and {others}"]
    return [*words, "-k", others]


def judge(mutant: Mutant) -> Verdict:
    """Make the mutant and run its tests."""
    began = time.monotonic()
    with copied() as tree:
        if not mutant.apply(tree):
            return Verdict(mutant, False, f"{mutant.file} has not exactly one {mutant.old!r}", 0)
        code, how = run(tree, mutant.tests)
    if code not in (GREEN, RED):
        how = f"pytest ended with {code}: {how}"
    elif code == GREEN:
        how = "survived"
    return Verdict(mutant, code == RED, how, time.monotonic() - began)


def baseline(mutants: Iterable[Mutant]) -> str | None:
    """What fails without any mutant; None: nothing does."""
    with copied() as tree:
        for tests in sorted({mutant.tests for mutant in mutants}):
            code, how = run(tree, tests)
            if code != GREEN:
                return f"{' '.join(tests)}: {how}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(mutant.name for mutant in MUTANTS)}; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutant first")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    unknown = set(options.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}")
    broken = None if options.no_baseline else baseline(chosen)
    if broken is not None:
        sys.stdout.write(f"red without a mutant: {broken}\n")
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        survived = 0
        for verdict in pool.map(judge, chosen):
            survived += not verdict.killed
            word = "red" if verdict.killed else "SURVIVED"
            sys.stdout.write(f"{word:<9} {verdict.mutant.name:<34} {verdict.seconds:5.1f} s  {verdict.how}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - survived} of {len(chosen)} mutants turn the suite red\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
