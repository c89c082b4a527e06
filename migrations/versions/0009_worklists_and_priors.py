"""Unified Procedure Steps claimed from worklists; earlier studies to compare with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
STATES = "'CLAIMING', 'CLAIMED', 'PERFORMING', 'CANCELING', 'COMPLETED', 'CANCELED', 'LOST'"


def upgrade() -> None:
    """A table, and columns."""
    op.create_table(
        "procedure_steps",
        sa.Column("worklist", sa.Text, nullable=False),
        sa.Column("procedure_step_uid", sa.Text, nullable=False),
        sa.Column("transaction_uid", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("work", sa.Text, nullable=False),
        sa.Column("priority", sa.Text, nullable=False),
        sa.Column("inputs", JSON, nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("workitems", JSON, nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("reason_code", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_procedure_steps_state")),
        sa.PrimaryKeyConstraint("worklist", "procedure_step_uid", name=op.f("pk_procedure_steps")),
    )
    op.create_index(
        "ix_procedure_steps_state_worklist_next_attempt_at",
        "procedure_steps",
        ["state", "worklist", "next_attempt_at"],
    )
    op.add_column(
        "rules", sa.Column("prior", sa.Text, nullable=False, server_default=sa.text("''"))
    )
    days = sa.Column("prior_days", sa.Integer, nullable=False, server_default=sa.text("1095"))
    op.add_column("rules", days)
    op.add_column("workitems", sa.Column("prior", JSON))
    for table, name, default in (
        ("rules", "prior_from", "''"),
        ("destinations", "retrieve", "'move'"),
    ):
        column = sa.Column(name, sa.Text, nullable=False, server_default=sa.text(default))
        op.add_column(table, column)
    op.create_table(
        "prior_searches",
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("within_days", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("prior_study_instance_uid", sa.Text, nullable=False),
        sa.Column("is_fetched", sa.Boolean, nullable=False),
        sa.Column("workitem_uids", JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "state IN ('WANTED', 'FETCHED', 'SETTLED')", name=op.f("ck_prior_searches_state")
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", "rule", name=op.f("pk_prior_searches")),
    )
    op.create_index(
        "ix_prior_searches_state_next_attempt_at", "prior_searches", ["state", "next_attempt_at"]
    )
    op.create_index(
        "ix_prior_searches_prior_study_instance_uid", "prior_searches", ["prior_study_instance_uid"]
    )
