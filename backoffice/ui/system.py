"""System: the self-check, versions, and the settings without their secrets."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web

from backoffice.api import self_check
from backoffice.config import BackofficeSettings
from backoffice.routes import HISTORY
from backoffice.ui.frame import Page, add_page
from bridge.config import BridgeSettings

SETTINGS = web.AppKey("settings", BackofficeSettings)
_OF_PACKAGES = ("chat-backoffice-bridge", "redis", "aiohttp", "pydantic", "SQLAlchemy")


async def show(page: Page) -> web.StreamResponse:
    app = page.request.app
    history = app[HISTORY]
    return page.render(
        "system.html",
        check=await page.ask(self_check.show),
        versions={"Python": platform.python_version(), **{name: _version(name) for name in _OF_PACKAGES}},
        settings=[*_masked("BACKOFFICE_", app[SETTINGS]), *_masked("BRIDGE_", page.bridge.settings)],
        progress=history.progress,
        commands=await history.count(),
    )


def _masked(prefix: str, settings: BackofficeSettings | BridgeSettings) -> list[tuple[str, Any]]:
    """Names as the environment has them; secrets show that they are set, and nothing else."""
    return [(prefix + name.upper(), value) for name, value in settings.model_dump(mode="json").items()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "–"


def add_to(app: web.Application) -> None:
    add_page(app, "/system", show)
