"""``chatbridge tail``: commands as they end, from Redis itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli_options import Json
from bridge.printing import print_json_line

if TYPE_CHECKING:
    from bridge.client import Bridge
    from bridge.record import Outcome

_LOOK_EVERY_S = 0.25
_PAGE = 500


def tail(
    type: Annotated[str | None, typer.Option("--type", help="Only commands of this type.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="Only commands for this subject.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many.", show_default=False)] = None,
    since: Annotated[bool, typer.Option("--all", help="Begin with what the record still has.")] = False,
    as_json: Json = False,
) -> None:
    """Commands as they end, until Ctrl-C."""
    from bridge.client import Bridge
    from bridge.config import BridgeSettings, load

    left = count

    def told(outcome: Outcome) -> bool:
        """Whether that was the last."""
        nonlocal left
        if (type is not None and outcome.type != type) or (subject is not None and outcome.subject != subject):
            return False
        if as_json:
            print_json_line(asdict(outcome))
        else:
            print(_line(outcome), flush=True)
        left = None if left is None else left - 1
        return left == 0

    async def follow() -> None:
        async with Bridge.connect(load(BridgeSettings)) as bridge:
            places = {
                shard: "0" if since else await bridge.inspector.settled_last(shard) for shard in range(bridge.shards)
            }
            while not await _look(bridge, places, told):  # noqa: ASYNC110 - what it waits for is in Redis
                await asyncio.sleep(_LOOK_EVERY_S)

    asyncio.run(follow())


async def _look(bridge: Bridge, places: dict[int, str], told: Callable[[Outcome], bool]) -> bool:
    """Tell what ended since, oldest first; whether that is all that was asked for."""
    pages = await asyncio.gather(*(bridge.inspector.settled(shard, last, _PAGE) for shard, last in places.items()))
    ended = []
    for shard, page in zip(places, pages, strict=True):
        if page.ended:
            places[shard] = page.ended[-1][0]
            ended += [outcome for _, outcome in page.ended]
    return any(told(outcome) for outcome in sorted(ended, key=lambda outcome: outcome.timeline[-1].at))


def _line(outcome: Outcome) -> str:
    at = datetime.fromtimestamp(outcome.timeline[-1].at / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    where = f" on {outcome.node}" if outcome.node else ""
    why = f" ({outcome.error.code}: {outcome.error.message})" if outcome.error else ""
    return f"{at}  {outcome.id}  {outcome.type} {outcome.subject}: {outcome.state}{where}{why}"
