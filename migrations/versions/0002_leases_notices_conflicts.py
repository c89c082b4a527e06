"""Deliveries are claimed under a lease, notices of a run are kept, conflicting instances are kept beside the first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Columns for several nodes on one index, and for what a reader must know."""
    op.add_column("deliveries", sa.Column("owner", sa.Text))
    op.add_column("deliveries", sa.Column("lease_until", TIME))
    op.add_column(
        "workitems", sa.Column("notices", JSON, nullable=False, server_default=sa.text("'[]'"))
    )
    op.create_table(
        "conflicting_instances",
        sa.Column("sop_instance_uid", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text, nullable=False),
        sa.Column("archive_key", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint(
            "sop_instance_uid", "digest", name=op.f("pk_conflicting_instances")
        ),
    )
