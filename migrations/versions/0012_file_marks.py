"""What is known of files of the archive that are not as their rows say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATES = "'MISSING', 'DAMAGED', 'EXPIRED', 'RETURNED'"


def upgrade() -> None:
    """One table."""
    op.create_table(
        "file_marks",
        sa.Column("archive_key", sa.Text, nullable=False),
        sa.Column("sop_instance_uid", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_file_marks_state")),
        sa.PrimaryKeyConstraint("archive_key", name=op.f("pk_file_marks")),
    )
    op.create_index("ix_file_marks_study_instance_uid", "file_marks", ["study_instance_uid"])
