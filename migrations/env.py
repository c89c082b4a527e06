"""Alembic runs this file; `migrations.commands` hands it a connection in a transaction."""

from __future__ import annotations

from alembic import context

from storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    # SQLite changes a column by copying its table.
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
