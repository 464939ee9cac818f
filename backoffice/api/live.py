"""What happens, as it happens: server-sent events (the WHATWG's HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import orjson
import structlog
from aiohttp import hdrs, web
from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from backoffice.intake import Query
from backoffice.live import TooSlow
from backoffice.operators import Role
from backoffice.problems import retry
from backoffice.records import RecordsUnavailable
from backoffice.routes import ACCESS, STOPPING, WATCH, Call, Route, TextIn, TextOf
from bridge.client import Bridge
from bridge.envelope import SUBJECT

TOPICS = ("commands", "nodes", "shards", "alarms", "sample")
MAX_TOPICS = 10
MAX_STREAMS, MAX_OF_ONE = 200, 20  # open ones, and those of one operator, or of tokens of one name
BEAT_S = 15.0  # a comment, so that nobody on the way takes the silence for an end
CHECK_S = 0.4  # how soon a session that was ended hears nothing more
UNKNOWN_S = 10.0  # without a word of the database whether the session still holds
LEAVING_S = 1.0  # to read that it is over
STALLED_S = 30.0  # without reading at all
AGAIN_MS = 1000  # for the browser to wait before it comes again
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


Frames = asyncio.Queue[bytes | None]
STREAMS = web.AppKey("streams", Counter[str])  # how many are open, by whose they are
log = structlog.get_logger(__name__)


async def stream(call: Call[LiveQuery, None]) -> web.StreamResponse:
    """Events of the topics, until one side ends it; resumable by `Last-Event-ID`.

    The event's name is its topic and its data the item, as the lists tell it. `gap` says that some were missed.
    """
    app, topics = call.request.app, call.query.topics.split(",")
    response = web.StreamResponse(headers={
        hdrs.CONTENT_TYPE: "text/event-stream",
        hdrs.CACHE_CONTROL: "no-store",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    })  # fmt: skip
    with _counted(app[STREAMS], f"{'token' if call.session is None else 'operator'} {call.caller.name}"):
        frames: Frames = asyncio.Queue(100)
        sources = [_events(call, topics, frames), _beats(frames), _stopped(app, frames), _ended(call, frames)]
        sources += [_room(call.bridge, topic, frames) for topic in topics if topic.startswith("room:")]
        running = [asyncio.create_task(source) for source in sources]
        try:
            await response.prepare(call.request)
            await _pass_on(call.request, response, frames)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return response


@contextlib.contextmanager
def _counted(open_: Counter[str], whose: str) -> Iterator[None]:
    """Raises Problem where there are enough."""
    if open_.total() >= MAX_STREAMS:
        raise retry("rate_limited", f"there are {MAX_STREAMS} open streams", 5)
    if open_[whose] >= MAX_OF_ONE:
        raise retry("rate_limited", f"the {whose} has {MAX_OF_ONE} open streams", 5)
    open_[whose] += 1
    try:
        yield
    finally:
        open_[whose] -= 1
        if not open_[whose]:
            del open_[whose]


async def _pass_on(request: web.Request, response: web.StreamResponse, frames: Frames) -> None:
    """Write frames until None comes, or the listener has not read for too long."""
    await response.write(b"retry: %d\n\n" % AGAIN_MS)
    try:
        while (frame := await frames.get()) is not None:
            async with asyncio.timeout(STALLED_S):
                await response.write(frame)
        async with asyncio.timeout(LEAVING_S):
            await response.write_eof()
    except TimeoutError:
        _cut(request)


def _cut(request: web.Request) -> None:
    """Close the connection without waiting for the other side to read."""
    if request.transport is not None:
        request.transport.abort()


async def _events(call: Call[LiveQuery, None], topics: list[str], frames: Frames) -> None:
    live = call.request.app[WATCH].live
    try:
        async for event in live.listen(topics, call.request.headers.get("Last-Event-ID")):
            if event is None:
                await frames.put(b"event: gap\ndata: {}\n\n")
            else:
                await frames.put(b"event: %b\nid: %b\ndata: %b\n\n" % (
                    event.topic.encode(), live.id(event).encode(), event.data))  # fmt: skip
    except TooSlow:
        await frames.put(None)


async def _room(bridge: Bridge, subject: str, frames: Frames) -> None:
    """What is published in a room; what was before is in its history."""
    async for publication in bridge.subscribe(subject):
        await frames.put(b"event: %b\ndata: %b\n\n" % (subject.encode(), orjson.dumps(asdict(publication))))


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
    _cut(call.request)


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
