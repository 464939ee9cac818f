"""``chatbridge config``: what the services would run with, as they read it themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from bridge.cli_options import Json
from bridge.errors import Misconfigured
from bridge.printing import print_json, print_table, text

config = typer.Typer(help="Settings: what is set, and whether it can be used.", no_args_is_help=True)


class Service(StrEnum):
    """Whose settings; each reads BRIDGE_* too."""

    BACKOFFICE = "backoffice"
    CHATSERVER = "chatserver"


Of = Annotated[list[Service] | None, typer.Argument(help="Services; both by default.", show_default=False)]


@config.command()
def show(services: Of = None, as_json: Json = False) -> None:
    """Every setting and its value; secrets are masked.

    Of a service whose settings cannot be used the error output says why. Exit status 2 where that service was
    asked for by name, or where it is so with both.
    """
    found: dict[str, dict[str, Any]] = {}
    for service in services or Service:
        try:
            found[service] = _settings(service)
        except Misconfigured as error:
            sys.stderr.write(f"chatbridge: {service}: {error}\n")
    if as_json:
        print_json(found)
    else:
        for name, settings in found.items():
            print(name)
            print_table((), ([f"  {setting}", text(value)] for setting, value in settings.items()))
    if not found or len(found) < len(set(services or ())):
        raise typer.Exit(2)


@config.command()
def check(services: Of = None) -> None:
    """Whether the settings can be used; exit status 2, and what to do, if not."""
    for service in services or Service:
        _settings(service)
        print(f"{service}: well")


def _settings(service: Service) -> dict[str, Any]:
    """As the service itself reads them. Raises Misconfigured with its words."""
    done = subprocess.run([sys.executable, "-m", service, "--settings"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Misconfigured(done.stderr.strip().removeprefix(f"{service}: "))
    settings: dict[str, Any] = json.loads(done.stdout)
    return settings
