"""For people who come by with a browser: where things are, and what a problem's type means."""

from __future__ import annotations

from html import escape

from aiohttp import hdrs, web

from backoffice.problems import CODES
from backoffice.routes import PREFIX

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title></head>
<body><h1>{title}</h1>
{content}
</body></html>
"""
_LINKS = (
    (f"{PREFIX}/openapi.json", "the API, as an OpenAPI 3.1 document (takes a token, as everything under /api/v1)"),
    ("/healthz", "whether the process lives"),
    ("/readyz", "whether it can do its work"),
    ("/metrics", "its figures, for Prometheus"),
)


async def home(_request: web.Request) -> web.Response:
    items = "\n".join(f'<li><a href="{path}">{path}</a>: {what}</li>' for path, what in _LINKS)
    curl = f"curl -H 'Authorization: Bearer TOKEN' …{PREFIX}/nodes"
    return _html("Chat back office", f"<ul>\n{items}\n</ul>\n<p><code>{escape(curl)}</code></p>")


async def problem(request: web.Request) -> web.Response:
    code = request.match_info["code"]
    if code not in CODES:
        raise web.HTTPNotFound
    status, title = CODES[code]
    return _html(
        code, f"<p>Status {status}. {title}. The answer's <code>detail</code> and <code>errors</code> say more.</p>"
    )


def _html(title: str, content: str) -> web.Response:
    body = _PAGE.format(title=escape(title), content=content)
    return web.Response(text=body, headers={**_HEADERS, hdrs.CONTENT_TYPE: "text/html; charset=utf-8"})


def add_to(app: web.Application) -> None:
    app.router.add_get("/", home)
    app.router.add_get("/problems/{code}", problem)
