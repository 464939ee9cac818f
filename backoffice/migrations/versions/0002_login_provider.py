"""Operators whom a login provider knows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("operators", sa.Column("subject", sa.String(64), nullable=True))
    op.create_index("uq_operators_subject", "operators", ["subject"], unique=True)
