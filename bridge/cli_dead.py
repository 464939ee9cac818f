"""``chatbridge dead``: commands that could not be handled."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bridge.cli_options import DEFAULT_URL, Json, Limit, OfShard, Token, Url, call, given, json_object, quoted
from bridge.printing import print_json, print_list, print_table, text


class _Dead(TyperGroup):
    """Without a verb it is ``list``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


dead = typer.Typer(help="Commands that could not be handled: look at them (list, where no verb is given), put them "
                        "back, discard them.", cls=_Dead)  # fmt: skip

Payload = Annotated[str | None, typer.Option("--payload", help="A JSON object instead of the command's own payload.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for those who read about it later.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids of commands; none = by filter.", show_default=False)]
OfType = Annotated[str | None, typer.Option("--type", help="Only commands of this type.")]
OfSubject = Annotated[str | None, typer.Option("--subject", help="Only commands for this subject.")]
OfCode = Annotated[str | None, typer.Option("--code", help="Only this cause, such as timed_out.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that was not put back yet.")]


@dead.command("list")
def dead_list(
    type: OfType = None,
    subject: OfSubject = None,
    code: OfCode = None,
    shard: OfShard = None,
    requeued: Annotated[bool, typer.Option("--requeued", help="Those put back instead of the others.")] = False,
    limit: Limit = 100,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the answer before.")] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Dead letters, newest first."""
    query = given(type=type, subject=subject, code=code, shard=shard, cursor=cursor)
    query |= {"limit": limit, "requeued": int(requeued)}
    answer = call(url, token, "GET", "/dead", query=query)
    if as_json:
        print_json(answer)
        return
    letters = [{**letter, "cause": letter["cause"]["code"]} for letter in answer["items"]]
    print_list(letters, ("id", "at", "type", "subject", "cause", "attempts", "node"), as_json)
    if answer["next_cursor"]:
        print(f"there are more: --cursor {answer['next_cursor']}")


@dead.command("show")
def dead_show(
    id: Annotated[str, typer.Argument(help="The command's.", show_default=False)],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """One dead letter: its cause, and the entry as it came."""
    answer = call(url, token, "GET", f"/dead/{quoted(id)}")
    if as_json:
        print_json(answer)
        return
    print(f"{answer['id']} {answer['cause']['code']}: {answer['cause']['message']}")
    print_table((), ([name, text(answer[name])] for name in ("at", "attempts", "node", "requeued_as")))
    print("as it came")
    print_table((), ([name, repr(base64.b64decode(value))[2:-1]] for name, value in answer["raw"].items()))


@dead.command()
def requeue(
    reason: Reason, ids: Ids = None, payload: Payload = None, type: OfType = None, subject: OfSubject = None,
    code: OfCode = None, shard: OfShard = None, every: All = False, dry_run: DryRun = False, as_json: Json = False,
    url: Url = DEFAULT_URL, token: Token = None,
) -> None:  # fmt: skip
    """Send dead letters again, as new commands; a second time does nothing."""
    body = _which(ids, every, given(type=type, subject=subject, code=code, shard=shard)) | {"reason": reason}
    body |= {"payload": json_object(payload, "--payload")} if payload is not None else {}
    _bulk(url, token, "requeue", body, dry_run, as_json)


@dead.command()
def discard(
    reason: Reason, ids: Ids = None, type: OfType = None, subject: OfSubject = None,
    code: OfCode = None, shard: OfShard = None, every: All = False, dry_run: DryRun = False, as_json: Json = False,
    url: Url = DEFAULT_URL, token: Token = None,
) -> None:  # fmt: skip
    """Throw dead letters away for good."""
    body = _which(ids, every, given(type=type, subject=subject, code=code, shard=shard)) | {"reason": reason}
    _bulk(url, token, "discard", body, dry_run, as_json)


def _bulk(url: str, token: str | None, verb: str, body: Mapping[str, Any], dry_run: bool, as_json: bool) -> None:
    answer = call(url, token, "POST", f"/dead/{verb}", body, query={"dry_run": int(dry_run)}, wait_s=10)
    if as_json:
        print_json(answer)
    else:
        would = f"would {verb}" if dry_run else f"{verb}ed" if verb == "discard" else "requeued"
        rows = [[moved["id"], would, moved["new_id"] or ""] for moved in answer["done"]]
        print_table((), rows + [[skipped["id"], "skipped", skipped["code"]] for skipped in answer["skipped"]])
        print(f"{answer['matched']} matched, {len(answer['done'])} {would}, {len(answer['skipped'])} skipped")
    if any(skipped["code"] != "already_requeued" for skipped in answer["skipped"]):
        raise typer.Exit(1)


def _which(ids: Sequence[str] | None, every: bool, filters: Mapping[str, Any]) -> dict[str, Any]:
    if [bool(ids), bool(filters), every].count(True) != 1:
        raise typer.BadParameter("say which: ids, or filters (--type, --subject, --code, --shard), or --all.")
    return {"ids": list(ids)} if ids else {"filter": dict(filters)}
