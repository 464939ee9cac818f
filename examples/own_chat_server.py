"""The library in a websocket server of one's own: what anybody says in a room is a command, in order and exactly once.

Run:  .venv/bin/python examples/own_chat_server.py    (on a server of its own; on another one with BRIDGE_REDIS_URL)
Then: websockets ws://127.0.0.1:8765/lobby
"""

import asyncio
import json
import os

from pydantic import BaseModel
from websockets.asyncio.server import ServerConnection, serve

from bridge import Bridge, Command, Effects, command, handles


@command("line.say", subject="room")
class Say(BaseModel):
    text: str


@handles(Say)
async def say(command: Command[Say]) -> Effects:
    return Effects().publish("line", {"by": command.issued_by, "text": command.payload.text})


async def main(url: str, port: int) -> None:
    async def push(socket: ServerConnection, room: str) -> None:
        async for publication in bridge.subscribe(room):
            await socket.send(json.dumps(publication.data))

    async def connected(socket: ServerConnection) -> None:
        room = f"room:{socket.request.path.strip('/')}"
        pushing = asyncio.create_task(push(socket, room))
        try:
            async for text in socket:
                await bridge.publish("line.say", room, {"text": text}, by=socket.id.hex)
        finally:
            pushing.cancel()

    async with Bridge.connect(url) as bridge, serve(connected, "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/lobby", flush=True)
        await bridge.serve(f"own-{os.getpid()}")


asyncio.run(main(os.environ.get("BRIDGE_REDIS_URL", "embedded://own-chat-data"), int(os.environ.get("PORT", "8765"))))
