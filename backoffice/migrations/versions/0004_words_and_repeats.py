"""Commands say which one repeats them; what a search for words looks at is folded, beyond ASCII as well.

Every row is looked at once, and changed if it is of either kind: with capital letters beyond
ASCII, or the repeat of another one.
"""

from __future__ import annotations

import orjson
import sqlalchemy as sa
import structlog
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

log = structlog.get_logger(__name__)

_ROWS = 5_000  # in memory at a time
_COMMANDS = sa.table("commands", *(sa.column(name) for name in ("id", "text", "data", "requeued_as")))
_AT = _COMMANDS.c


def upgrade() -> None:
    op.add_column("commands", sa.Column("requeued_as", sa.String(40), nullable=True))
    connection = op.get_bind()
    looked_at, last = 0, ""
    folded = sa.update(_COMMANDS).where(_AT.id == sa.bindparam("of")).values(text=sa.bindparam("folded"))
    linked = sa.update(_COMMANDS).where(_AT.id == sa.bindparam("of")).values(requeued_as=sa.bindparam("by_id"))
    while found := connection.execute(_page(connection.dialect.name, last)).all():
        texts = [
            {"of": row.id, "folded": row.text.lower()} for row in found if row.text and row.text.lower() != row.text
        ]
        links = [{"of": origin, "by_id": row.id} for row in found
                 if row.data and (origin := orjson.loads(row.data)["origin"])]  # fmt: skip
        if texts:
            connection.execute(folded, texts)
        if links:
            connection.execute(linked, links)
        looked_at, last = looked_at + len(found), found[-1].id
        if looked_at % (20 * _ROWS) == 0:
            log.info("the history's rows are looked at for the new version", done=looked_at)


def _page(dialect: str, last: str) -> sa.Select[tuple[str, str | None, str | None]]:
    """The next rows, with no more of them than may have to change."""
    beyond = _AT.text.regexp_match("[^\x01-\x7f]") if dialect == "postgresql" else _AT.text.op("GLOB")("*[^\x01-\x7f]*")
    text = sa.case((beyond, _AT.text)).label("text")
    data = sa.case((_AT.data.like('%"origin":"%'), _AT.data)).label("data")
    return sa.select(_AT.id, text, data).where(_AT.id > last).order_by(_AT.id).limit(_ROWS)
