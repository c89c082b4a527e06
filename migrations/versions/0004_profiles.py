"""Profiles of destinations, what evidence was made for and its proof, findings that are followed, refusals reported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Columns, and the table of findings."""
    for table, name, kind, default in (
        ("destinations", "profile", sa.Text(), sa.text("'generic'")),
        ("evidence", "profiles", JSON, sa.text("'[]'")),
        ("evidence", "proof", JSON, sa.text("'[]'")),
        ("rules", "report_refusals", sa.Boolean(), sa.false()),
        ("workitems", "report_refusals", sa.Boolean(), sa.false()),
        ("workitems", "known_findings", JSON, sa.text("'{}'")),
    ):
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
    op.create_table(
        "findings",
        sa.Column(
            "workitem_uid",
            sa.Text,
            sa.ForeignKey("workitems.workitem_uid", name="fk_findings_workitem_uid_workitems"),
            primary_key=True,
        ),
        sa.Column("segment_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("segment_label", sa.Text, nullable=False),
        sa.Column("tracking_uid", sa.Text, nullable=False),
    )
    op.create_index("ix_findings_tracking_uid", "findings", ["tracking_uid"])
    op.create_index("ix_studies_patient_id", "studies", ["patient_id"])
