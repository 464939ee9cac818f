"""The wheel: built without a network, installed elsewhere, and everything that its pages name is in it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from backoffice.ui.site import NAVIGATION
from tests.browser import runtimes
from tests.browser.conftest import require
from tests.browser.desk import Desk, desks
from tests.test_demo import Demo

ROOT = Path(__file__).parents[2]
PACKAGES = ("bridge", "backoffice", "chatserver")
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
_NAMED = re.compile(
    r"""(?:href|src)="([^"#]+)"|\bfrom\s+['"]([./][^'"]+)['"]|\bimport\(['"](\.[^'"]+)|url\(['"]?([^'")]+)"""
)
expect.set_options(timeout=30_000)  # the machine may be busy with other tests


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the hatchling that the lock file names; the environment of this run has it already."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", os.fspath(folder))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with what others wrote as this one has it, but not with this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:  # nothing is compiled, so that unpacking is installing
        archive.extractall(packages)
    # A path that is named in such a file is searched, and the files like it in there are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.fixture
def environment() -> dict[str, str]:
    """As of a shell that knows nothing of this checkout."""
    ours = ("BRIDGE_", "BACKOFFICE_", "CHATSERVER_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture
async def demo(python: Path, tmp_path: Path, environment: dict[str, str]) -> AsyncIterator[Demo]:
    """A demo of the installed wheel, started in an empty folder."""
    ready, output = tmp_path / "ready.json", tmp_path / "output"
    options = ("--port", "0", "--nodes", "1", "--ready-file", os.fspath(ready))
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            python, "-m", "bridge.cli", "demo", *options, cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    demo = Demo(process, ready, output)
    try:
        await demo.serves()
        yield demo
        assert await demo.end() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def offline() -> AsyncIterator[Browser]:
    """Chromium that finds no machine but this one."""
    require(runtimes.chromium)
    async with runtimes.launched(NO_NAMES) as browser:
        yield browser


def files(package: str) -> Iterator[str]:
    """What is in the repository."""
    for path in (ROOT / package).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix()


def test_everything_of_the_packages_is_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        here = {name: (ROOT / name).read_bytes() for package in PACKAGES for name in files(package)}
        assert packed == set(here)
        assert [name for name, data in here.items() if archive.read(name) != data] == []
    for needed in ("bridge/scripts/settle.lua", "chatserver/scripts/say.lua", "backoffice/ui/templates/base.html",
                   "backoffice/ui/static/act.js", "chatserver/static/client.js", "bridge/py.typed"):  # fmt: skip
        assert needed in packed


def test_it_is_the_installed_one_that_runs(python: Path, environment: dict[str, str], tmp_path: Path) -> None:
    code = "import bridge, backoffice.app, chatserver.node; print(bridge.__file__)"
    said = subprocess.check_output((python, "-c", code), cwd=tmp_path, env=environment, text=True)
    assert Path(said.strip()).is_relative_to(python.parent.parent)


async def test_its_pages_find_all_that_they_name_and_ask_nobody_else(demo: Demo, offline: Browser) -> None:
    ready = demo.ready
    asked: list[str] = []
    async with desks(offline, ready["backoffice"]) as sit:
        desk = await sit()
        desk.page.on("request", lambda request: asked.append(request.url))
        desk.page.on("response", lambda response: _note(response.status, response.url, desk))
        await desk.log_in(ready["admin"]["user"], ready["admin"]["password"])
        for path in (*(place.path for place in NAVIGATION), "/rooms/lobby", "/commands/new?type=room.open"):
            await desk.go(path)
            await desk.live()
        await desk.page.goto(ready["nodes"][0]["health_url"].removesuffix("healthz"))
        await expect(desk.page.get_by_role("heading", name="Demo chat")).to_be_visible()
        cookies = {each["name"]: each["value"] for each in await desk.page.context.cookies()}  # type: ignore[typeddict-item]
    assert {urlsplit(url).hostname for url in asked} == {"127.0.0.1"}
    for start in (ready["backoffice"], ready["nodes"][0]["health_url"].removesuffix("healthz")):
        found = await _everything_named(start, cookies)
        assert set(found.values()) == {200}, found
        assert len([url for url in found if url.endswith((".js", ".css"))]) > 5


def _note(status: int, url: str, desk: Desk) -> None:
    if status >= 400:
        desk.problems.append(f"{status} {url}")


async def _everything_named(start: str, cookies: dict[str, str]) -> dict[str, int]:
    """The status of whatever the page names, and of what its scripts and styles do."""
    found: dict[str, int] = {}
    wanted = [start]
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookies=cookies, cookie_jar=jar) as http:
        while wanted:
            url = wanted.pop()
            if url in found or urlsplit(url).netloc != urlsplit(start).netloc:
                continue
            async with http.get(url) as answer:
                found[url] = answer.status
                text = await answer.text(errors="replace")
            if url == start or (url.endswith((".js", ".css")) and "/vendor/" not in url):
                wanted += [urljoin(url, next(filter(None, named))) for named in _NAMED.findall(text)]
    return found
