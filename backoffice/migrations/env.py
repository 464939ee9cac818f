"""What Alembic runs; the connection comes from ``backoffice.records``."""

from __future__ import annotations

from alembic import context

from backoffice.tables import metadata

connection = context.config.attributes["connection"]
# SQLite cannot alter most of a table; in batch mode Alembic copies it instead.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
