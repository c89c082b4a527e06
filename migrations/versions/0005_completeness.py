"""Facts of a series kept with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Columns."""
    op.add_column("series", sa.Column("facts", JSON))
    op.add_column("series", sa.Column("facts_count", sa.Integer()))
