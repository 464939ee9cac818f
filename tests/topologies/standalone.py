"""One server by itself: who takes its place after a crash is itself."""

from __future__ import annotations

from tests.faults.pace import elapsed
from tests.servers import Server
from tests.topologies.base import Topology, role


class OneServer(Topology):
    """A server on a unix socket."""

    kind = "standalone"
    detection = ""
    forgets = False

    def __init__(self, engine: str, **config: str) -> None:
        super().__init__(engine)
        options = {name.replace("_", "-"): value for name, value in config.items()}
        self.servers.append(Server(engine, tcp=False, config=options))

    @property
    def url(self) -> str:
        return self.servers[0].url

    async def faults(self) -> list[str]:
        return [] if await role(self.servers[0]) == "master" else ["it does not answer"]

    async def detect_after(self, ms: int) -> None:
        """Nobody notices."""

    async def owner(self, key: str) -> Server:
        return self.servers[0]

    async def fail_over(self, primary: Server, how: str = "planned") -> Server:
        """SIGTERM or SIGKILL, and a start from its file."""
        if how == "planned":
            await primary.terminate()
        await primary.restart()
        return primary

    async def promoted(self, instead_of: Server, timeout: float = 40) -> Server:
        await instead_of.restart()
        return instead_of

    async def crash(self, primary: Server, *, away_s: float = 0.0) -> None:
        primary.kill()
        await elapsed(away_s)
        await primary.restart()
