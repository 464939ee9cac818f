"""What happens, as it happens: server-sent events (the WHATWG's HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import Annotated, Any

import orjson
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
MAX_STREAMS = 200
BEAT_S = 15.0  # a comment, so that nobody on the way takes the silence for an end
CHECK_S = 0.4  # how soon a session that was ended hears nothing more
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


async def stream(call: Call[LiveQuery, None]) -> web.StreamResponse:
    """Events of the topics, until one side ends it; resumable by `Last-Event-ID`.

    The event's name is its topic and its data the item, as the lists tell it. `gap` says that some were missed.
    """
    app = call.request.app
    open_ = app[STREAMS]
    if len(open_) >= MAX_STREAMS:
        raise retry("rate_limited", f"there are {MAX_STREAMS} open streams", 5)
    response = web.StreamResponse(headers={
        hdrs.CONTENT_TYPE: "text/event-stream",
        hdrs.CACHE_CONTROL: "no-store",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    })  # fmt: skip
    topics = call.query.topics.split(",")
    await response.prepare(call.request)
    await response.write(b"retry: %d\n\n" % AGAIN_MS)
    task = asyncio.current_task()
    assert task is not None
    open_.add(task)
    frames: Frames = asyncio.Queue(100)
    sources = [_events(call, topics, frames), _beats(frames), _stopped(app, frames)]
    sources.append(_ended(call, frames))
    sources += [_room(call.bridge, topic, frames) for topic in topics if topic.startswith("room:")]
    running = [asyncio.create_task(source) for source in sources]
    try:
        while (frame := await frames.get()) is not None:
            await response.write(frame)
    finally:
        open_.discard(task)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return response


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
    """Whose session was ended, or token dropped, hears nothing more."""
    access = call.request.app[ACCESS]
    while True:
        await asyncio.sleep(CHECK_S)
        with contextlib.suppress(RecordsUnavailable):
            if not await access.holds(call.request, call.session):
                return await frames.put(None)


async def _stopped(app: web.Application, frames: Frames) -> None:
    await app[STOPPING].wait()
    await frames.put(None)


_EVENT = {
    "type": "object",
    "description": "One event; data is JSON.",
    "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
}
STREAMS = web.AppKey("streams", set[asyncio.Task[Any]])
ROUTES = (
    Route("GET", "/live", stream, Role.VIEWER, {200: TextOf(("text/event-stream",), _EVENT)}, query=LiveQuery,
          deadline_s=None, headers={"Last-Event-ID": TextIn("the id of the last event that was heard")},
          problems=("rate_limited",)),
)  # fmt: skip
