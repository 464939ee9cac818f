"""What happens, as it happens: server-sent events (the WHATWG's HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import orjson
import structlog
from aiohttp import hdrs, web
from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from backoffice.api.long_answers import STALLED_S, counted, cut
from backoffice.api.rooms import published
from backoffice.intake import Query
from backoffice.live import TooSlow
from backoffice.operators import Role
from backoffice.places import BEGINNING, Places, follows, read_places
from backoffice.records import RecordsUnavailable
from backoffice.routes import ACCESS, DEADLINE_S, STOPPING, WATCH, Call, Route, TextIn, TextOf
from bridge.client import Bridge
from bridge.envelope import SUBJECT, Position
from bridge.errors import BridgeError

TOPICS = ("commands", "nodes", "shards", "alarms", "sample")
MAX_TOPICS = 10
MAX_STREAMS, MAX_OF_ONE = 200, 20  # open ones, and those of one operator, or of tokens of one name
BEAT_S = 15.0  # a comment, so that nobody on the way takes the silence for an end
CHECK_S = 0.4  # how soon a session that was ended hears nothing more
UNKNOWN_S = 10.0  # without a word of the database whether the session still holds
LEAVING_S = 1.0  # to read that it is over
AGAIN_MS = 1000  # for the browser to wait before it comes again
LOOK_AGAIN_S = 0.2  # where a room is, while Redis is away
ROOM = "room:"
_TOPIC = f"({'|'.join(TOPICS)}|room:[A-Za-z0-9._@+-]{{1,64}})"
_PATTERN = f"^{_TOPIC}(,{_TOPIC}){{0,{MAX_TOPICS - 1}}}$"  # as the document tells it


def _known(given: str) -> str:
    topics = given.split(",")
    for topic in topics:
        if topic not in TOPICS and not (topic.startswith("room:") and SUBJECT.fullmatch(topic)):
            raise PydanticCustomError("topic", "topics are {names} and room:ID", {"names": ", ".join(TOPICS)})
    if len(topics) > MAX_TOPICS:
        raise PydanticCustomError("too_many", "at most {most} topics", {"most": MAX_TOPICS})
    return given


class LiveQuery(Query):
    """What to hear of."""

    topics: Annotated[str, AfterValidator(_known), WithJsonSchema({"type": "string", "pattern": _PATTERN})] = Field(
        description=f"at most {MAX_TOPICS}, separated by commas"
    )


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and where its listener is after it."""

    name: str
    data: bytes
    live: str | None = None  # None: where it was
    room: tuple[str, Position] | None = None


Frames = asyncio.Queue[Told | bytes | None]
STREAMS = web.AppKey("streams", Counter[str])  # how many are open, by whose they are
log = structlog.get_logger(__name__)


async def stream(call: Call[LiveQuery, None]) -> web.StreamResponse:
    """Events of the topics, until one side ends it; resumable by `Last-Event-ID`.

    The event's name is its topic and its data one item, as the lists tell it. Each node, shard and alarm is told
    when the stream begins, and again when it changes; a node that is in the list no more with `gone_at`, an alarm that
    has cleared with `cleared_at`. Messages and notices of a room are as in its history; these and what else is
    published there have `type`, `epoch` and `offset`. `gap` says that some events of its `topics` were missed.
    """
    app, topics = call.request.app, list(dict.fromkeys(call.query.topics.split(",")))
    response = web.StreamResponse(headers={
        hdrs.CONTENT_TYPE: "text/event-stream",
        hdrs.CACHE_CONTROL: "no-store",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    })  # fmt: skip
    with counted(app[STREAMS], call, "streams", most=MAX_STREAMS, of_one=MAX_OF_ONE):
        frames: Frames = asyncio.Queue(100)
        after = call.request.headers.get("Last-Event-ID")
        given = None if after is None else read_places(after)
        places = await _places(call, topics, given)
        known = places.live if given is None else given.live
        sources = [_beats(frames), _stopped(app, frames), _ended(call, frames)]
        if general := [topic for topic in topics if not topic.startswith(ROOM)]:
            sources.append(_events(call, general, known, frames))
        sources += [_room(call.bridge, room, places.rooms.get(room), frames, resumed=given is not None)
                    for room in _rooms(topics)]  # fmt: skip
        running = [asyncio.create_task(source) for source in sources]
        try:
            await response.prepare(call.request)
            if given is None:  # who comes again before anything was told goes on from here as well
                await response.write(b"id: %b\n\n" % places.id().encode())
            await _pass_on(call.request, response, frames, places)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return response


async def _places(call: Call[LiveQuery, None], topics: list[str], given: Places | None) -> Places:
    """Where the listener is: where it says that it was, otherwise now. Rooms are left out while Redis is away."""
    live, rooms = call.request.app[WATCH].live, _rooms(topics)
    if given is not None:
        return Places(live.place(given.live), ((room, given.rooms[room]) for room in rooms if room in given.rooms))
    places = Places(live.place(None))
    with contextlib.suppress(BridgeError, TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            last = await asyncio.gather(*(call.bridge.position(ROOM + room) for room in rooms))
        places.rooms.update((room, place or BEGINNING) for room, place in zip(rooms, last, strict=True))
    return places


def _rooms(topics: list[str]) -> list[str]:
    return [topic.removeprefix(ROOM) for topic in topics if topic.startswith(ROOM)]


async def _pass_on(request: web.Request, response: web.StreamResponse, frames: Frames, places: Places) -> None:
    """Write frames until None comes, or the listener has not read for too long."""
    await response.write(b"retry: %d\n\n" % AGAIN_MS)
    try:
        while (frame := await frames.get()) is not None:
            async with asyncio.timeout(STALLED_S):
                await response.write(_written(frame, places) if isinstance(frame, Told) else frame)
        async with asyncio.timeout(LEAVING_S):
            await response.write_eof()
    except TimeoutError:
        cut(request)


def _written(told: Told, places: Places) -> bytes:
    """Its id is made as it is written, when everything before it has been."""
    if told.live is not None:
        places.live = told.live
    if told.room is not None:
        places.rooms[told.room[0]] = told.room[1]
    return b"event: %b\nid: %b\ndata: %b\n\n" % (told.name.encode(), places.id().encode(), told.data)


def _gap(topics: list[str], room: tuple[str, Position] | None = None) -> Told:
    return Told("gap", orjson.dumps({"topics": topics}), room=room)


async def _events(call: Call[LiveQuery, None], topics: list[str], after: str, frames: Frames) -> None:
    live = call.request.app[WATCH].live
    try:
        async for event in live.listen(topics, after):
            await frames.put(_gap(topics) if event is None else Told(event.topic, event.data, live.id(event)))
    except TooSlow:
        await frames.put(None)


async def _room(bridge: Bridge, room: str, place: Position | None, frames: Frames, *, resumed: bool) -> None:
    """What is published in a room after that place, or from now on; what was before is in its history."""
    subject, last = ROOM + room, await _last(bridge, ROOM + room)
    # A place that never was would keep all up to it from the listener.
    never = place is not None and place.epoch in (last.epoch, BEGINNING.epoch) and place.offset > last.offset
    gap = resumed if place is None else never or place.epoch not in (last.epoch, BEGINNING.epoch)
    if place is None or never or last == BEGINNING:
        place = last
    if gap:
        await frames.put(_gap([subject], (room, place)))
    async for publication in bridge.subscribe(subject, place):
        before, place = place, Position(publication.epoch, publication.offset)
        if not gap and not follows(place, before):
            await frames.put(_gap([subject]))
        gap = False
        data = orjson.dumps(published(publication), option=orjson.OPT_UTC_Z)
        await frames.put(Told(subject, data, room=(room, place)))


async def _last(bridge: Bridge, subject: str) -> Position:
    while True:
        try:
            return await bridge.position(subject) or BEGINNING
        except BridgeError:
            await asyncio.sleep(LOOK_AGAIN_S)


async def _beats(frames: Frames) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        await frames.put(b": still there\n\n")


async def _ended(call: Call[LiveQuery, None], frames: Frames) -> None:
    """Whose session was ended, or token dropped, hears nothing more, and holds nothing open by not reading."""
    try:
        await _while_it_holds(call)
    except Exception:
        log.exception("nobody can tell whether a listener may go on")
    while not frames.empty():
        frames.get_nowait()
    frames.put_nowait(None)
    await asyncio.sleep(LEAVING_S)
    cut(call.request)


async def _while_it_holds(call: Call[LiveQuery, None]) -> None:
    """Returns when it does no longer, or the database has not said so for ``UNKNOWN_S``."""
    access, now = call.request.app[ACCESS], asyncio.get_running_loop().time
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UNKNOWN_S) as limit:
            while True:
                await asyncio.sleep(CHECK_S)
                with contextlib.suppress(RecordsUnavailable):
                    if not await access.holds(call.request, call.session):
                        return
                    limit.reschedule(now() + UNKNOWN_S)


async def _stopped(app: web.Application, frames: Frames) -> None:
    await app[STOPPING].wait()
    await frames.put(None)


_EVENT = {
    "type": "object",
    "description": "One event; data is JSON.",
    "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
}
ROUTES = (
    Route("GET", "/live", stream, Role.VIEWER, {200: TextOf(("text/event-stream",), _EVENT)}, query=LiveQuery,
          deadline_s=None, headers={"Last-Event-ID": TextIn("the id of the last event that was heard")},
          problems=("rate_limited",)),
)  # fmt: skip
