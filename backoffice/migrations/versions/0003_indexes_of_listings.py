"""Commands by node, and audit entries by request, newest first, without reading all of them."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_commands_node_issued_at_id", "commands", ["node", "issued_at", "id"])
    op.create_index("ix_audit_request_id_id", "audit", ["request_id", "id"])
