"""Was everything kept that is promised? Pure functions over what a run recorded; each names what it found wrong."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from tests.nemesis.history import GARBAGE, Entered, Heard, History, Issued, Kept, Line

RECOVERY_BAR_S = 5.0
GROWTH_BAR = 48 << 20  # bytes that a process may gain between its first and its last quarter
SETTLED_IN_S = 5.0  # a process's first seconds say nothing of leaks
LIVED_S = 30.0
REOPENED_S = 10.0  # a fail-over may take a sanction back until publishers have put it back
EXPIRING = re.compile(r":(outcome|idem|lease|asleep|receipts):?|:nonce:|:said:|:kicked:|:kicked_at$|:spare$")
PERMANENT = re.compile(
    r"^chat:\{(meta|nodes)\}|^chat:\{\d+\}:(commands|settled|epoch|incarnation|starts|dead|requeued|scheduled\b.*"
    r"|channel:.*|history|newer|publishers|rooms|sanctions|room:[^:]+:(settings|deleted|present|present:version|muted:.*|banned:.*|ledger|last)"
    r"|user:[^:]+:(sanctions|sessions|session:rooms))$"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one checker says. ``excused``: would be wrong, but for a fail-over that loses the last writes by design."""

    checker: str
    looked_at: int
    wrong: list[str] = field(default_factory=list)
    excused: int = 0

    @property
    def valid(self) -> bool:
        return not self.wrong


def lost(history: History) -> Verdict:
    """Every accepted command has ended, and a numbered one has its line."""
    lines = {line.id for line in history.lines}
    accepted = [issued for issued in history.issued if issued.accepted is not None]
    wrong, excused = [], 0
    for issued in accepted:
        if (issued.id in lines) if issued.n is not None else issued.ended is not None:
            continue
        at = issued.accepted or 0.0
        if (issued.raw or not history.journaled) and history.may_be_lost(at):
            excused += 1
        else:
            wrong.append(f"{issued.type} {issued.subject} {issued.id}, accepted at {at:.2f} s")
    return Verdict("lost", len(accepted), wrong, excused)


def unexpected(history: History) -> Verdict:
    """Every effect is of a command that was sent."""
    known = {issued.id for issued in history.issued if issued.id}
    # Sent, and nobody knows what became of it.
    unknown = {(issued.subject, issued.n) for issued in history.issued if issued.accepted is None}
    wrong = [
        f"{line.subject} {line.id} n={line.n}"
        for line in history.lines
        if line.id not in known and (line.subject, line.n) not in unknown
    ]
    return Verdict("unexpected", len(history.lines), wrong)


def twice(history: History) -> Verdict:
    """Nothing took effect twice: no command, no number, no message."""
    ids = Counter(line.id for line in history.lines)
    numbers = Counter((line.subject, line.n) for line in history.lines)
    texts = Counter(kept.text for kept in history.kept if "#" in kept.text)
    wrong = [f"command {id}" for id, count in ids.items() if count > 1]
    wrong += [f"{subject} n={n}" for (subject, n), count in numbers.items() if count > 1]
    wrong += [f"message {text!r}" for text, count in texts.items() if count > 1]
    return Verdict("twice", len(ids) + len(texts), wrong)


def order(history: History) -> Verdict:
    """Effects are in the order of acceptance, each on the state that the one before left; a user's messages too."""
    by_subject: defaultdict[str, list[Line]] = defaultdict(list)
    for line in history.lines:
        by_subject[line.subject].append(line)
    wrong = []
    for subject, lines in by_subject.items():
        last, before = -1, ""
        for line in lines:
            if line.n <= last or line.before != before:
                wrong.append(f"{subject} n={line.n} after {last}, found {line.before!r}")
            last, before = line.n, str(line.n)
    return Verdict("order", len(history.lines) + len(history.kept), wrong + _messages_out_of_order(history))


def _messages_out_of_order(history: History) -> list[str]:
    wrong, said = [], dict[tuple[str, str], int]()
    for kept in history.kept:
        user, mark, number = kept.text.partition(" #")
        if not mark or user == "notice":
            continue
        if int(number) <= said.get((kept.room, user), 0):
            wrong.append(f"{kept.room} {kept.text!r} after #{said[kept.room, user]}")
        said[kept.room, user] = int(number)
    return wrong


def broadcasts(history: History) -> Verdict:
    """Every client got each of its room's publications once and in order, or was told that it could not."""
    wrong, heard, at = [], 0, dict[str, int]()
    for entry in history.places:
        if isinstance(entry, Entered):
            at[entry.client] = entry.since if entry.recovered and entry.since is not None else entry.offset
            continue
        heard += 1
        expected = at[entry.client] + 1
        if entry.offset != expected:
            wrong.append(f"{entry.client} in {entry.room}: {entry.offset} instead of {expected} at {entry.at:.2f} s")
        at[entry.client] = entry.offset
    ends = {kept.room: kept.offset for kept in history.kept}
    for (client, room), (_, offset) in history.present.items():
        if offset != ends.get(room, 0):
            wrong.append(f"{client} in {room}: at {offset} in the end, the room at {ends.get(room, 0)}")
    return Verdict("broadcast gaps", heard, wrong)


def agreement(history: History) -> Verdict:
    """What a client heard is what the room's history has there."""
    kept = {(each.room, each.offset): each.text for each in history.kept}
    wrong, excused, heard = [], 0, 0
    for entry in history.places:
        if not isinstance(entry, Heard):
            continue
        heard += 1
        found = kept.get((entry.room, entry.offset))
        if found == entry.text:
            continue
        if history.may_be_lost(entry.at):
            excused += 1
        else:
            wrong.append(f"{entry.client} {entry.room} {entry.offset}: {entry.text!r}, history {found!r}")
    return Verdict("heard is history", heard, wrong, excused)


def said(history: History) -> Verdict:
    """A message whose author was told ``ok`` is in the history, where it was told to be."""
    kept: dict[tuple[str, int], Kept] = {(each.room, each.offset): each for each in history.kept}
    accepted = [each for each in history.said if each.code == "ok"]
    wrong, excused = [], 0
    for each in accepted:
        found = kept.get((each.room, each.offset or 0))
        if found is not None and found.text == each.text:
            continue
        if history.may_be_lost(each.answered) or history.may_be_lost(each.asked):
            excused += 1
        else:
            wrong.append(f"{each.text!r} in {each.room} at {each.offset}, answered at {each.answered:.2f} s")
    return Verdict("said is kept", len(accepted), wrong, excused)


def leaks(history: History) -> Verdict:
    """Nothing is accepted from a user that was sent after the sanction was reported done, until it is lifted."""
    wrong, excused, looked_at = [], 0, 0
    for sanction in history.sanctions:
        for each in history.said:
            concerned = sanction.user in (None, each.user) and sanction.room in (None, each.room)
            if not concerned or not sanction.done < each.asked or not each.answered < sanction.lifted:
                continue
            looked_at += 1
            if each.code != "ok":
                continue
            if _may_be_reopened(history, each.answered):
                excused += 1
            else:
                wrong.append(f"{each.text!r} at {each.asked:.2f} s, under {sanction.kind} since {sanction.done:.2f} s")
    return Verdict("sanction leaks", looked_at, wrong, excused)


def _may_be_reopened(history: History, at: float) -> bool:
    return any(s.loses and s.began <= at <= s.healed + REOPENED_S for s in history.struck)


def poison(history: History) -> Verdict:
    """What cannot be handled is buried for what it is, and nothing else is."""
    letters = {letter.id: letter for letter in history.letters}
    sent = {issued.id: issued for issued in history.issued}
    wrong, excused = [], 0
    for issued in history.issued:
        if not issued.expected.startswith("dead ") or issued.accepted is None:
            continue
        cause, letter = issued.expected.removeprefix("dead "), letters.get(issued.id)
        if letter is not None and letter.code == cause:
            continue
        if letter is None and history.may_be_lost(issued.accepted):
            excused += 1
        else:
            wrong.append(f"{issued.type} {issued.id}: {letter.code if letter else 'no dead letter'} instead of {cause}")
    for letter in history.letters:
        if (letter.type, letter.code) == (GARBAGE, "undecodable"):
            continue  # its issuer may not have heard that it is there
        if letter.id not in sent or not sent[letter.id].expected.startswith("dead "):
            what = sent[letter.id].type if letter.id in sent else letter.type
            wrong.append(f"innocent {what} {letter.id}: {letter.code} after {letter.attempts}")
    return Verdict("poison", len(history.letters), wrong, excused)


def memory(history: History) -> Verdict:
    """Processes that lived for a while do not grow."""
    lives: defaultdict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)
    for sample in history.samples:
        lives[sample.process, sample.pid].append((sample.at, sample.rss))
    wrong, looked_at = [], 0
    for (process, pid), life in lives.items():
        samples = [(at, rss) for at, rss in life if at > life[0][0] + SETTLED_IN_S]
        if len(samples) < 4 or samples[-1][0] - samples[0][0] < LIVED_S:
            continue
        looked_at += 1
        quarter = max(1, len(samples) // 4)
        early, late = (median(rss for _, rss in part) for part in (samples[:quarter], samples[-quarter:]))
        if late - early > GROWTH_BAR:
            wrong.append(f"{process} ({pid}) grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB")
    return Verdict("memory", looked_at, wrong)


def connections(history: History) -> Verdict:
    """There are no more connections to the servers than at the beginning."""
    before, after = history.connections
    wrong = [] if after <= before else [f"{after} connections instead of {before}"]
    return Verdict("connections", after, wrong)


def keys(history: History) -> Verdict:
    """Every key expires, or is one of those that stay and are bounded."""
    wrong = [
        key.name
        for key in history.keys
        if not key.expires and (EXPIRING.search(key.name) or not PERMANENT.search(key.name))
    ]
    return Verdict("keys", len(history.keys), wrong)


@dataclass(frozen=True, slots=True)
class Recovery:
    """After a wave of faults: seconds from the last one's heal until every subject's commands flow again."""

    wave: int
    kinds: tuple[str, ...]
    healed: float
    seconds: float | None  # None: not before the end


def recoveries(history: History) -> list[Recovery]:
    """One per wave. A subject flows again when a command that was sent after the heal is in effect."""
    effects = {line.id: line.at for line in history.lines}
    by_subject: defaultdict[str, list[Issued]] = defaultdict(list)
    for issued in history.issued:
        if issued.n is not None and issued.type == "nemesis.add":
            by_subject[issued.subject].append(issued)
    found = []
    for wave in sorted({struck.wave for struck in history.struck}):
        of_wave = [struck for struck in history.struck if struck.wave == wave]
        healed = max(struck.healed for struck in of_wave)
        ends = [_first_effect(issues, healed, effects) for issues in by_subject.values()]
        missing = not ends or None in ends
        seconds = None if missing else max(0.0, max(end for end in ends if end is not None) - healed)
        found.append(Recovery(wave, tuple(struck.kind for struck in of_wave), healed, seconds))
    return found


def _first_effect(issues: list[Issued], healed: float, effects: dict[str, float]) -> float | None:
    return next((effects[i.id] for i in issues if i.sent >= healed and i.id in effects), None)


def recovery(history: History) -> Verdict:
    """Soon after every wave of faults commands flow again."""
    found = recoveries(history)
    wrong = [
        f"wave {each.wave} ({', '.join(each.kinds)}): "
        + ("not before the end" if each.seconds is None else f"{each.seconds:.2f} s")
        for each in found
        if each.seconds is None or each.seconds > RECOVERY_BAR_S
    ]
    return Verdict("recovery", len(found), wrong)


def complaints(history: History) -> Verdict:
    """No process wrote of an error that it did not expect, and every one ended when it was told to."""
    return Verdict("logs", len({sample.pid for sample in history.samples}), history.complaints)


CHECKERS: tuple[Callable[[History], Verdict], ...] = (
    lost, unexpected, twice, order, broadcasts, agreement, said, leaks, poison, memory, connections, keys, recovery,
    complaints,
)  # fmt: skip


def judge(history: History) -> list[Verdict]:
    return [check(history) for check in CHECKERS]
