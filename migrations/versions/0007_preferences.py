"""Rules choose among the series that fit; those written before go on as they did, with every one of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Columns for wishes, and for running on each."""
    for name, kind, default in (
        ("prefer", JSON, sa.text("'[]'")),
        ("each", sa.Boolean(), sa.false()),
    ):
        op.add_column("rules", sa.Column(name, kind, nullable=False, server_default=default))
    op.execute(sa.update(sa.table("rules", sa.column("each", sa.Boolean))).values(each=True))
