"""``chatserver``: one node, from the environment."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from bridge.config import BridgeSettings, load
from bridge.errors import BridgeError, Misconfigured
from bridge.logs import configure
from bridge.process import new_event_loop, print_settings, write_json
from bridge.registry import load_plugins
from chatserver.config import ChatSettings
from chatserver.logs import log_event
from chatserver.node import ChatNode, Ready


def main() -> None:
    """Exit status 0 after SIGTERM or SIGINT, 1 if it could not serve, 2 if misused."""
    parser = argparse.ArgumentParser(prog="chatserver", description="One chat node, set by CHATSERVER_*, BRIDGE_*")
    parser.add_argument("--settings", action="store_true", help="tell the settings, secrets masked, and end")
    parser.add_argument("--ready-file", type=Path, help="written, as JSON, once the node serves")
    arguments = parser.parse_args()
    try:
        settings, bridge_settings = load(ChatSettings), load(BridgeSettings)
        if arguments.settings:
            return print_settings(settings, bridge_settings)
        configure(as_json=settings.log_json, node=settings.node_name)
        load_plugins(bridge_settings.plugins)
        loop_factory = new_event_loop if settings.uvloop else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve(settings, bridge_settings, arguments.ready_file))
    except* BridgeError as group:
        sys.stderr.write("".join(f"chatserver: {error}\n" for error in group.exceptions))
        sys.exit(2 if any(isinstance(error, Misconfigured) for error in group.exceptions) else 1)
    except* OSError as group:  # a port that is taken, an address that is not ours
        sys.stderr.write("".join(f"chatserver: cannot serve: {error}\n" for error in group.exceptions))
        sys.exit(1)


async def _serve(settings: ChatSettings, bridge_settings: BridgeSettings, ready_file: Path | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    def ready(where: Ready) -> None:
        sys.stdout.write(where.json().decode() + "\n")
        sys.stdout.flush()
        if ready_file is not None:
            write_json(ready_file, where)

    node = ChatNode(settings, bridge_settings, load_settings=lambda: load(ChatSettings))
    node.telemetry.listen(log_event)
    await node.run(stopping, ready)


if __name__ == "__main__":
    main()
