"""Storage commitment: what destinations are asked, and what they answered. Pauses and windows of destinations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATES = "'WANTED', 'ASKED', 'READING', 'SETTLED', 'EXPIRED'"


def upgrade() -> None:
    """A table, and columns."""
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.Text, nullable=False),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("workitem_uid", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_commitments_state")),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitments")),
    )
    op.create_index(
        "ix_commitments_state_destination_next_attempt_at",
        "commitments",
        ["state", "destination", "next_attempt_at"],
    )
    for table, name in (("destinations", "commitment"), ("deliveries", "to_commit")):
        column = sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())
        op.add_column(table, column)
    window = sa.Column("window", sa.Text, nullable=False, server_default=sa.text("''"))
    op.add_column("destinations", window)
    op.add_column("destinations", sa.Column("paused_at", sa.DateTime(timezone=True)))
    op.add_column("deliveries", sa.Column("transaction_uid", sa.Text))
    op.add_column("deliveries", sa.Column("failure_reason", sa.Integer))
    op.create_index("ix_deliveries_transaction_uid", "deliveries", ["transaction_uid"])
    op.create_index(
        "ix_deliveries_to_commit",
        "deliveries",
        ["destination"],
        sqlite_where=sa.text("to_commit"),
        postgresql_where=sa.text("to_commit"),
    )
