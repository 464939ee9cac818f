"""What buttons do: a call of the API, what has to be asked before, and how it is undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backoffice.operators import Role, role_to_issue
from backoffice.routes import PREFIX
from backoffice.ui.frame import Page
from backoffice.ui.words import N_, Words
from bridge.errors import UnknownType

_REASON_CHARS = 500
_SPANS = ((600, N_("10 minutes")), (3600, N_("1 hour")), (86_400, N_("1 day")), (604_800, N_("7 days")),
          ("", N_("without end")))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Act:
    """A button, and what it does. ``why``: the reason why this operator may not."""

    label: str
    json: str
    why: str | None = None
    danger: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """How a command is offered."""

    label: str
    sentence: str  # {what} is the room or user, {user} the member
    fields: tuple[str, ...] = ("reason",)
    undo: str | None = None
    danger: bool = False
    typed: bool = False  # cannot be undone: the name has to be written
    several: str | None = None  # the sentence where there may be more than one


VERBS: Mapping[str, Verb] = {
    "member.mute": Verb(N_("Mute"), N_("Mute {user} in {what}?"), ("seconds", "reason"), "member.unmute"),
    "member.unmute": Verb(N_("Unmute"), N_("Let {user} speak in {what} again?"), ("reason",)),
    "member.kick": Verb(N_("Kick"), N_("Remove {user} from {what}? They may come back."), ("reason",), None, True),
    "member.ban": Verb(N_("Ban"), N_("Ban {user} from {what}?"), ("seconds", "reason"), "member.unban", True),
    "member.unban": Verb(N_("Lift the ban"), N_("Let {user} into {what} again?")),
    "user.mute": Verb(N_("Mute everywhere"), N_("Mute {what} in all rooms?"), ("seconds", "shadow", "reason"),
                      "user.unmute"),
    "user.unmute": Verb(N_("Unmute"), N_("Let {what} speak again?")),
    "user.ban": Verb(N_("Ban everywhere"), N_("Ban {what} and close their connections?"), ("seconds", "reason"),
                     "user.unban", True),
    "user.unban": Verb(N_("Lift the ban"), N_("Let {what} connect again?")),
    "user.kick": Verb(N_("Disconnect"), N_("Close all connections of {what}?"), ("reason",), None, True),
    "user.warn": Verb(N_("Warn"), N_("Show {what} a warning?"), ("text", "reason")),
    "room.freeze": Verb(N_("Freeze"), N_("Freeze {what}? Nobody can write until it is thawed."), ("reason",),
                        "room.unfreeze"),
    "room.unfreeze": Verb(N_("Thaw"), N_("Let members of {what} write again?"), ("reason",), "room.freeze"),
    "room.close": Verb(N_("Close the room"), N_("Close {what}? Nobody can write or join."), ("reason",), "room.open",
                       True),
    "room.open": Verb(N_("Open the room"), N_("Open {what}?"), ("title", "reason"), "room.close"),
    "room.slow_mode": Verb(N_("Slow mode"), N_("Seconds between two messages of one user in {what}; 0 is off."),
                           ("slow", "reason")),
    "room.clear": Verb(N_("Delete everything"), N_("Delete everything that was said in {what}? It cannot come back."),
                       ("reason",), None, True, True),
    "message.delete": Verb(N_("Delete"), N_("Delete this message in {what}?"), ("reason",), None, True,
                           several=N_("Delete these messages in {what}?")),
    "notice.post": Verb(N_("Notice"), N_("A notice to everybody in {what}, kept in its history."), ("text", "level")),
}  # fmt: skip


def command(page: Page, type: str, subject: str, payload: Mapping[str, Any] | None = None, **shown: str) -> Act:
    """A button that issues a command; ``shown`` are words of its sentence."""
    verb, words = VERBS[type], page.words
    what = subject.partition(":")[2]
    told = " ".join(filter(None, (words(verb.label), shown.get("user"), what)))
    given = dict(payload or {})
    body = {"type": type, "subject": subject, "payload": given}
    act = _issue(body, told) | {
        "label": words(verb.label),
        "sentence": words(verb.sentence, what=what, **shown),
        "fields": [_FIELDS[name](words) for name in verb.fields],
        "danger": verb.danger,
        "typed": what if verb.typed else None,
    }
    if verb.undo is not None:
        kept = {name: value for name, value in given.items() if name == "user"}
        back = {"type": verb.undo, "subject": subject, "payload": kept, "reason": "undo"}
        act["undo"] = _issue(back, " ".join(filter(None, (words(VERBS[verb.undo].label), shown.get("user"), what))))
    return _act(page, act, least=issuing_role(page, type))


def call(
    page: Page,
    label: str,
    sentence: str,
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    fields: Sequence[Mapping[str, Any]] = (),
    least: Role = Role.OPERATOR,
    danger: bool = False,
    **more: Any,
) -> Act:
    """A button that calls the API for something that is no command."""
    act = {"method": method, "path": PREFIX + path, "body": dict(body or {}), "label": label, "sentence": sentence,
           "fields": list(fields), "danger": danger, "command": False, **more}  # fmt: skip
    return _act(page, act, least=least)


def form(page: Page, type: str) -> str:
    """What a form that issues commands of this type does, and asks before where that is dangerous."""
    verb, words = VERBS.get(type), page.words
    act: dict[str, Any] = {"method": "POST", "path": f"{PREFIX}/commands", "command": True, "body": {"type": type}}
    if verb is not None and verb.undo is not None:
        act["undone_by"] = verb.undo
    if verb is not None and verb.danger:
        act |= {"label": words(verb.label), "sentence": words(verb.several or verb.sentence), "danger": True,
                "typed": verb.typed}  # fmt: skip
    return orjson.dumps(act).decode()


def issuing_role(page: Page, type: str) -> Role:
    """The least role that may issue or cancel commands of this type."""
    try:
        return role_to_issue(page.bridge.registry.get(type))
    except UnknownType:
        return Role.OPERATOR


def why_not(page: Page, least: Role) -> str | None:
    """Why this operator may not, in words; None: they may."""
    if page.caller.role >= least:
        return None
    return page.words("This takes the role {role}; yours is {mine}.", role=page.words(str(least)),
                      mine=page.words(str(page.caller.role)))  # fmt: skip


def reason(words: Words, *, required: bool = False) -> dict[str, Any]:
    return {"into": "/reason", "label": words("Reason"), "kind": "text", "most": _REASON_CHARS, "required": required}


def _act(page: Page, act: Mapping[str, Any], *, least: Role) -> Act:
    return Act(act["label"], orjson.dumps(act).decode(), why_not(page, least), act["danger"])


def _issue(body: Mapping[str, Any], told: str) -> dict[str, Any]:
    return {"method": "POST", "path": f"{PREFIX}/commands", "command": True, "body": body, "told": told}


def _seconds(words: Words) -> dict[str, Any]:
    choices = [(value, words(text)) for value, text in _SPANS]
    return {"into": "/payload/seconds", "label": words("How long"), "kind": "number", "choices": choices}


def _shadow(words: Words) -> dict[str, Any]:
    choices = [("false", words("no")), ("true", words("yes"))]
    return {"into": "/payload/shadow", "label": words("Without their noticing"), "kind": "json", "choices": choices}


def _text(words: Words) -> dict[str, Any]:
    return {"into": "/payload/text", "label": words("Text"), "kind": "long", "most": 1000, "required": True}


def _title(words: Words) -> dict[str, Any]:
    return {"into": "/payload/title", "label": words("Title"), "kind": "text", "most": 200}


def _slow(words: Words) -> dict[str, Any]:
    return {"into": "/payload/seconds", "label": words("Seconds"), "kind": "number", "value": 10, "required": True}


def level(words: Words) -> dict[str, Any]:
    choices = [("info", words("info")), ("warning", words("warning"))]
    return {"into": "/payload/level", "label": words("Level"), "kind": "text", "choices": choices}


_FIELDS = {"seconds": _seconds, "shadow": _shadow, "text": _text, "title": _title, "slow": _slow, "level": level,
           "reason": reason}  # fmt: skip
