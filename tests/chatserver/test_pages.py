from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import SecretStr

from bridge.errors import Misconfigured
from chatserver.config import ChatSettings
from chatserver.pages import STATIC, DemoPage, new_user
from tests.chatserver.client import SECRET, connected, token
from tests.chatserver.conftest import Chat, RunningNode

ROOT = Path(__file__).parents[2]


async def ask(node: RunningNode, path: str, method: str = "GET", **options: Any) -> tuple[aiohttp.ClientResponse, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, node.http + path, **options) as response:
        text = await response.text()
        return response, await response.json() if response.content_type == "application/json" else text


@pytest.fixture
async def demo(chat: Chat) -> RunningNode:
    running = await chat.start_node(demo_page=True, origins=("*",))
    await chat.done("room.open", "room:lobby", {"title": "Lobby"})
    return running


async def test_every_node_serves_the_client_to_pages_of_any_address(node: RunningNode) -> None:
    for name, type in (("client.js", "text/javascript"), ("client.d.ts", "text/plain")):
        response, text = await ask(node, f"/{name}")
        assert (response.status, response.content_type) == (200, type)
        assert text == (STATIC / name).read_text()
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/demo/chat.js", "/demo/rooms", "/demo/token", "/demo/", "/static/client.js"])
async def test_without_the_setting_there_is_no_page(node: RunningNode, path: str) -> None:
    assert (await ask(node, path))[0].status == 404
    assert (await ask(node, path, "POST"))[0].status == 404


async def test_the_page_may_load_nothing_from_elsewhere(demo: RunningNode) -> None:
    for path in ("/", "/demo/chat.js", "/demo/chat.css", "/demo/icon.svg"):
        response, _ = await ask(demo, path)
        assert response.status == 200, path
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert {"script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/demo/..%2fclient.js", "/demo/index.html", "/demo//chat.js", "/demo/x", "/x"])
async def test_other_paths_are_not_found(demo: RunningNode, path: str) -> None:
    assert (await ask(demo, path))[0].status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/", 405), ("HEAD", "/", 200), ("DELETE", "/client.js", 405), ("GET", "/demo/token", 405)],
)
async def test_methods(demo: RunningNode, method: str, path: str, status: int) -> None:
    assert (await ask(demo, path, method))[0].status == status


async def test_anybody_gets_a_token_of_a_new_user(demo: RunningNode) -> None:
    for name in ("Mina", "김미나", " a  b "):
        response, answer = await ask(demo, "/demo/token", "POST", params={"name": name})
        assert response.status == 200
        assert answer["name"] == " ".join(name.split())
        async with connected(demo.url) as client:
            ready = await client.ask("auth", token=answer["token"])
            assert ready["user"] == {"user": answer["user"], "name": answer["name"]}
    _, other = await ask(demo, "/demo/token", "POST", params={"name": "Mina"})
    assert other["user"] != answer["user"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\x00b", "a\x1bb"])
async def test_not_everything_is_a_name(demo: RunningNode, name: str) -> None:
    assert (await ask(demo, "/demo/token", "POST", params={"name": name}))[0].status == 422


async def test_a_token_of_the_page_is_renewed_for_the_same_user_even_after_its_end(demo: RunningNode) -> None:
    late = token("mina-1", name="Mina", seconds=-3600)
    _, answer = await ask(demo, "/demo/token", "POST", headers={"Authorization": f"Bearer {late}"})
    assert (answer["user"], answer["name"]) == ("mina-1", "Mina")
    claims = jwt.decode(answer["token"], OctKey.import_key(SECRET)).claims
    assert 3500 < claims["exp"] - time.time() <= 3600


@pytest.mark.parametrize(
    "bearer",
    ["x", token("u1", secret="another secret of more than 32 bytes"), token("u1", seconds=-25 * 3600)],
    ids=["no token", "of another key", "of yesterday"],
)
async def test_nobody_becomes_somebody_else(demo: RunningNode, bearer: str) -> None:
    response, _ = await ask(demo, "/demo/token?name=x", "POST", headers={"Authorization": f"Bearer {bearer}"})
    assert response.status == 401


async def test_tokens_are_limited_in_number(demo: RunningNode) -> None:
    answers = await asyncio.gather(*(ask(demo, "/demo/token?name=x", "POST") for _ in range(150)))
    refused = [response for response, _ in answers if response.status == 429]
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1


async def test_the_page_learns_rooms_and_other_nodes(chat: Chat, demo: RunningNode) -> None:
    other = await chat.start_node("node-b")
    _, answer = await ask(demo, "/demo/rooms")
    assert answer == {"rooms": [{"id": "lobby", "title": "Lobby"}], "nodes": [other.url]}


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [({"origins": ()}, "CHATSERVER_ORIGINS"), ({"jwt_key": SecretStr('{"keys": []}')}, "CHATSERVER_JWT_KEY")],
)
def test_a_page_that_could_not_work_is_refused(settings: dict[str, Any], remedy: str) -> None:
    given = ChatSettings(**{"jwt_key": SecretStr(SECRET), "origins": ("*",), **settings})
    with pytest.raises(Misconfigured, match=remedy):
        DemoPage(given, None)  # type: ignore[arg-type]  # nothing is asked of it


def test_ids_of_new_users_are_ids() -> None:
    for name in ("Mina", "김미나", "x" * 64, "../<b>"):
        assert len(new_user(name)) <= 64
        assert all(c.isascii() and (c.isalnum() or c == "-") for c in new_user(name))


def test_the_wheel_has_all_static_files(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("bridge", "backoffice", "chatserver"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tmp_path, check=True, capture_output=True
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    wanted = {path.relative_to(ROOT).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    wanted |= {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "backoffice" / "ui").rglob("*.*") if path.suffix != ".pyc"
    }
    assert "backoffice/ui/templates/base.html" in wanted
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())
    assert "chatserver/static/client.js" in wanted
