"""For people who follow a problem's type with a browser: what it means."""

from __future__ import annotations

from html import escape

from aiohttp import hdrs, web

from backoffice.problems import CODES

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
    app.router.add_get("/problems/{code}", problem)
