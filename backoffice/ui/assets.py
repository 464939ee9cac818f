"""Scripts, styles and pictures. Their addresses hold a hash of all of them, so browsers may keep them for ever."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from aiohttp import hdrs, web

STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json"}


def _read() -> dict[str, bytes]:
    files = (path for path in sorted(STATIC.rglob("*")) if path.suffix in _TYPES)
    return {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in files}


_FILES = _read()
DIGEST = sha256(b"\0".join(part for name, data in _FILES.items() for part in (name.encode(), data))).hexdigest()[:16]
BASE = f"/assets/{DIGEST}"  # modules import each other by relative addresses, which stay below it


async def asset(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if request.match_info["digest"] != DIGEST or name not in _FILES:
        raise web.HTTPNotFound
    headers = {hdrs.CONTENT_TYPE: f"{_TYPES[Path(name).suffix]}; charset=utf-8",
               hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable"}  # fmt: skip
    return web.Response(body=_FILES[name], headers=headers)


def add_to(app: web.Application) -> None:
    app.router.add_get("/assets/{digest}/{name:.+}", asset)
