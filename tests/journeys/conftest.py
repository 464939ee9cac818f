"""An installation of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.journeys.installation import Installation
from tests.servers import Server


@pytest.fixture
def settings() -> dict[str, Any]:
    """``BRIDGE_*`` of all processes."""
    return {"shards": 16}


@pytest.fixture
async def chat(own_server: Server, settings: dict[str, Any]) -> AsyncIterator[Installation]:
    """Three nodes, a back office and the room ``lobby``; at the end no log may tell of an error."""
    installation = Installation(own_server, **settings)
    try:
        await installation.start()
        await installation.done("room.open", "room:lobby", title="Lobby")
        yield installation
    finally:
        await installation.destroy()
    assert not installation.complaints()
