"""Every checker flags a history that breaks its promise, and passes the one that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.nemesis import checkers
from tests.nemesis.checkers import GROWTH_BAR, judge, recoveries
from tests.nemesis.history import (
    GARBAGE,
    Entered,
    Heard,
    History,
    Issued,
    Kept,
    Key,
    Letter,
    Line,
    Said,
    Sample,
    Sanction,
    Struck,
)


def good() -> History:
    """One subject with three commands, a wave at 10 s, two clients in a room, a mute, a poison."""
    history = History("standalone", "valkey-9.1", 1, seconds=60)
    for n, at in enumerate((1.0, 9.0, 11.0)):
        history.issued.append(Issued("nemesis.add", "room:n0", at, n, f"3-{n}", at + 0.1, ended=None))
        history.lines.append(Line("room:n0", f"3-{n}", n, str(n - 1) if n else "", at + 0.2))
    history.issued.append(Issued("member.mute", "room:c0", 2.0, None, "5-1", 2.1, ended="done"))
    history.issued.append(
        Issued("nemesis.die", "room:p", 3.0, None, "6-1", 3.1, expected="dead killed_its_node", ended="dead")
    )
    history.letters.append(Letter("6-1", "nemesis.die", "killed_its_node", 3))
    history.struck.append(Struck(1, "node killed", "node-a", 9.5, 10.0))
    for client in ("u1", "u2"):
        history.places.append(Entered(client, "c0", "e", 4, None, False))
        history.places += [Heard(client, "c0", "e", offset, f"u1 #{offset - 4}", 5.0) for offset in (5, 6)]
        history.present[client, "c0"] = ("e", 6)
    history.said += [Said("u1", "c0", n, 4.0 + n / 10, 4.05 + n / 10, "ok", n + 4) for n in (1, 2)]
    history.said.append(Said("u1", "c0", 3, 6.5, 6.6, "muted"))
    history.sanctions.append(Sanction("member.mute", "u1", "c0", 6.0, 8.0))
    history.kept += [Kept("c0", "e", offset, f"u1 #{offset - 4}") for offset in (5, 6)]
    history.samples += [Sample(float(at), "node-a", 7, 80 << 20) for at in range(60)]
    history.keys += [Key("chat:{3}:commands", False), Key("chat:{3}:outcome:3-1", True)]
    history.connections = (9, 9)
    return history


def test_a_good_history_is_valid() -> None:
    assert [verdict for verdict in judge(good()) if not verdict.valid] == []


def lose_a_command(h: History) -> None:
    del h.lines[2]


def lose_the_end_of_a_command(h: History) -> None:
    h.issued[3].ended = None


def do_what_nobody_asked(h: History) -> None:
    h.lines.append(Line("room:n0", "3-77", 3, "2", 12.0))


def do_a_command_twice(h: History) -> None:
    h.lines.append(replace(h.lines[2], before="2"))


def do_a_number_under_two_ids(h: History) -> None:
    h.lines.append(Line("room:n0", "3-9", 2, "2", 12.0))


def say_twice(h: History) -> None:
    h.kept.append(Kept("c0", "e", 7, "u1 #2"))


def swap_two_commands(h: History) -> None:
    h.lines[1], h.lines[2] = replace(h.lines[2], before="0"), replace(h.lines[1], before="2")


def act_on_an_old_state(h: History) -> None:
    h.lines[2] = replace(h.lines[2], before="0")


def swap_two_messages(h: History) -> None:
    h.kept = [Kept("c0", "e", 5, "u1 #2"), Kept("c0", "e", 6, "u1 #1")]


def skip_a_broadcast(h: History) -> None:
    del h.places[1]


def repeat_a_broadcast(h: History) -> None:
    h.places.insert(2, h.places[1])


def skip_what_was_said_to_be_recovered(h: History) -> None:
    h.places.append(Entered("u2", "c0", "e", 9, 6, True))
    h.places.append(Heard("u2", "c0", "e", 9, "u1 #5", 7.0))


def leave_a_client_behind(h: History) -> None:
    h.places.pop()
    h.present["u2", "c0"] = ("e", 5)


def tell_two_clients_different_things(h: History) -> None:
    h.places[-1] = replace(h.places[-1], text="u9 #1")


def forget_what_was_said(h: History) -> None:
    h.said.append(Said("u2", "c0", 1, 7.0, 7.1, "ok", 7))


def let_a_muted_user_speak(h: History) -> None:
    h.said.append(Said("u1", "c0", 4, 6.7, 6.8, "ok", 7))


def let_somebody_speak_in_a_frozen_room(h: History) -> None:
    h.sanctions.append(Sanction("room.freeze", None, "c0", 3.9, 4.3))


def bury_an_innocent(h: History) -> None:
    h.letters.append(Letter("3-1", "nemesis.add", "killed_its_node", 3))


def bury_for_another_cause(h: History) -> None:
    h.letters[0] = replace(h.letters[0], code="timed_out")


def bury_nothing(h: History) -> None:
    h.letters.clear()


def grow(h: History) -> None:
    h.samples = [replace(s, rss=s.rss + int(s.at * GROWTH_BAR / 30)) for s in h.samples]


def leak_a_connection(h: History) -> None:
    h.connections = (9, 10)


def keep_what_must_expire(h: History) -> None:
    h.keys.append(Key("chat:{3}:idem:api:room:n0:k1", False))


def keep_what_nobody_knows(h: History) -> None:
    h.keys.append(Key("chat:{3}:room:n0:whatever", False))


def recover_late(h: History) -> None:
    h.lines[2] = replace(h.lines[2], at=16.0)


def never_recover(h: History) -> None:
    h.struck[0].healed = 30.0


def write_a_traceback(h: History) -> None:
    h.complaints.append("node-a: Traceback (most recent call last):")


BREACHES: list[tuple[Callable[[History], None], str]] = [
    (lose_a_command, "lost"),
    (lose_the_end_of_a_command, "lost"),
    (do_what_nobody_asked, "unexpected"),
    (do_a_command_twice, "twice"),
    (do_a_number_under_two_ids, "twice"),
    (say_twice, "twice"),
    (swap_two_commands, "order"),
    (act_on_an_old_state, "order"),
    (swap_two_messages, "order"),
    (skip_a_broadcast, "broadcast gaps"),
    (repeat_a_broadcast, "broadcast gaps"),
    (skip_what_was_said_to_be_recovered, "broadcast gaps"),
    (leave_a_client_behind, "broadcast gaps"),
    (tell_two_clients_different_things, "heard is history"),
    (forget_what_was_said, "said is kept"),
    (let_a_muted_user_speak, "sanction leaks"),
    (let_somebody_speak_in_a_frozen_room, "sanction leaks"),
    (bury_an_innocent, "poison"),
    (bury_for_another_cause, "poison"),
    (bury_nothing, "poison"),
    (grow, "memory"),
    (leak_a_connection, "connections"),
    (keep_what_must_expire, "keys"),
    (keep_what_nobody_knows, "keys"),
    (recover_late, "recovery"),
    (never_recover, "recovery"),
    (write_a_traceback, "logs"),
]


@pytest.mark.parametrize(("breach", "checker"), BREACHES, ids=lambda value: getattr(value, "__name__", value))
def test_a_breach_is_flagged(breach: Callable[[History], None], checker: str) -> None:
    history = good()
    breach(history)
    assert checker in [verdict.checker for verdict in judge(history) if not verdict.valid]


def test_every_checker_is_known_to_flag_something() -> None:
    assert {verdict.checker for verdict in judge(good())} == {checker for _, checker in BREACHES}


def test_a_client_that_was_told_of_a_gap_has_none() -> None:
    history = good()
    history.places[-1:] = [Entered("u2", "c0", "e2", 5, 5, False), Heard("u2", "c0", "e2", 6, "u1 #2", 7.0)]
    assert checkers.broadcasts(history).valid


def test_an_unknown_outcome_may_be_either() -> None:
    history = good()
    history.issued.append(Issued("nemesis.add", "room:n0", 13.0, 3))
    assert checkers.unexpected(history).valid
    history.lines.append(Line("room:n0", "3-3", 3, "2", 13.1))
    assert checkers.unexpected(history).valid


FORGIVEN: list[tuple[Callable[[History], None], Callable[[History], Any]]] = [
    (lose_a_command, checkers.lost),
    (forget_what_was_said, checkers.said),
    (tell_two_clients_different_things, checkers.agreement),
    (let_a_muted_user_speak, checkers.leaks),
]


@pytest.mark.parametrize(("breach", "check"), FORGIVEN, ids=lambda value: value.__name__)
def test_what_a_lossy_fail_over_may_do_is_counted_apart(
    breach: Callable[[History], None], check: Callable[[History], Any]
) -> None:
    history = good()
    history.journaled = False
    breach(history)
    history.struck.append(Struck(2, "primary killed", "", 6.0, 12.0, loses=True))
    verdict = check(history)
    assert (verdict.valid, verdict.excused) == (True, 1)


def test_with_a_journal_no_accepted_command_may_be_lost() -> None:
    history = good()
    lose_a_command(history)
    history.struck.append(Struck(2, "primary killed", "", 6.0, 12.0, loses=True))
    assert not checkers.lost(history).valid


def test_what_was_added_past_the_library_has_no_journal() -> None:
    history = good()
    history.issued.append(Issued("garbage", "shard 1", 6.5, None, "1-1", 6.5, expected="dead undecodable", raw=True))
    history.struck.append(Struck(2, "primary killed", "", 6.0, 12.0, loses=True))
    assert (checkers.lost(history).valid, checkers.lost(history).excused) == (True, 1)


def test_recovery_counts_from_the_last_heal_of_a_wave() -> None:
    history = good()
    history.struck.append(Struck(1, "scripts forgotten", "", 9.7, 10.5))
    [recovery] = recoveries(history)
    assert recovery.seconds == pytest.approx(0.7)
    assert recovery.kinds == ("node killed", "scripts forgotten")


def test_garbage_whose_issuer_did_not_hear_of_it_is_no_innocent() -> None:
    history = good()
    history.letters.append(Letter("6-2", GARBAGE, "undecodable", 0))
    assert checkers.poison(history).wrong == []
