"""Destinations that are DICOMweb services."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One column."""
    url = sa.Column("url", sa.Text, nullable=False, server_default=sa.text("''"))
    op.add_column("destinations", url)
