"""Destinations over TLS."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column."""
    column = sa.Column("tls", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("destinations", column)
