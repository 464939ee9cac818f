"""Alembic's migrations of the back office's database; they run at start."""
