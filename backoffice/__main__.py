"""The ``backoffice`` command: serve until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from backoffice.app import make_app
from backoffice.config import BackofficeSettings
from backoffice.listening import listening
from bridge.config import BridgeSettings, load
from bridge.errors import BridgeError, Misconfigured
from bridge.logs import configure
from bridge.process import new_event_loop, print_settings, write_json
from bridge.registry import load_plugins

JOURNAL = Path("backoffice-data", "journal")  # below the working directory, unless BRIDGE_JOURNAL says otherwise


def main() -> None:
    """Exit status 0 after a clean stop, 1 where it could not serve, 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser("backoffice", description="REST API of the chat; settings come from BACKOFFICE_* "
                                     "and BRIDGE_* variables.")  # fmt: skip
    parser.add_argument("--settings", action="store_true", help="tell the settings, secrets masked, and end")
    parser.add_argument("--ready-file", type=Path, help="written, as JSON, once it serves")
    options = parser.parse_args()
    configure()
    try:
        settings, bridge = load(BackofficeSettings), load(BridgeSettings)
        if "journal" not in bridge.model_fields_set:
            bridge = bridge.model_copy(update={"journal": JOURNAL})
        if options.settings:
            return print_settings(settings, bridge)
        load_plugins(bridge.plugins)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(serve(settings, bridge, options.ready_file))
    except Misconfigured as error:
        _end(str(error), 2)
    except (BridgeError, OSError) as error:
        _end(f"cannot serve: {error}", 1)


async def serve(settings: BackofficeSettings, bridge: BridgeSettings, ready_file: Path | None = None) -> None:
    """Serve until a signal says to stop; the address goes to standard output and the ready file as JSON."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = make_app(settings, bridge, announce=_announce_admin)
    async with listening(app, settings.host, settings.port, settings.tls) as url:
        _collect_seldom()
        _announce({"url": url, "pid": os.getpid()}, ready_file)
        await stop.wait()


def _collect_seldom() -> None:
    """What is here by now stays, and requests leave next to no cycles: looking for them seldom saves 8 % of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _announce(where: Mapping[str, str | int], ready_file: Path | None) -> None:
    sys.stdout.write(orjson.dumps(where).decode() + "\n")
    sys.stdout.flush()
    if ready_file is not None:
        write_json(ready_file, where)


def _announce_admin(name: str, password: str) -> None:
    """On the error output only, so that it does not stay in the logs' store."""
    sys.stderr.write(f"backoffice: first start: log in as {name!r} with the one-time password {password}\n")
    sys.stderr.flush()


def _end(why: str, status: int) -> None:
    sys.stderr.write(f"backoffice: {why}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
