"""The order of workitems by priority and age, time windows, holds; indexes for lists of a million rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
#: Seconds since 1970 of a time, as each database spells it.
_SECONDS = {
    "sqlite": "CAST(strftime('%s', scheduled_at) AS REAL)",
    "postgresql": "extract(epoch FROM scheduled_at)",
}
_QUEUE = ["state", "turn", "workitem_uid", "not_before", "held_at", "pipeline", "window"]


def upgrade() -> None:
    """Columns, the turn of what is there, and indexes."""
    op.add_column(
        "rules", sa.Column("window", sa.Text, nullable=False, server_default=sa.text("''"))
    )
    for column in (
        sa.Column("priority_reasons", JSON, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("turn", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("window", sa.Text),
        sa.Column("held_at", sa.DateTime(timezone=True)),
        sa.Column("hold_reason", sa.Text),
    ):
        op.add_column("workitems", column)
    seconds = _SECONDS[op.get_bind().dialect.name]
    # A point of priority is worth ten minutes of waiting.
    op.execute(f"UPDATE workitems SET turn = {seconds} - priority * 600")  # noqa: S608 - ours
    op.drop_index("ix_workitems_state_priority_scheduled_at", "workitems")
    op.drop_index("ix_measurements_pipeline_concept_value_measured_at", "measurements")
    op.create_index("ix_workitems_queue", "workitems", _QUEUE)
    for table, *columns in (
        ("workitems", "state", "not_before"),
        ("workitems", "state", "pipeline", "ended_at"),
        ("workitems", "scheduled_at"),
        ("measurements", "measured_at"),
        ("measurements", "pipeline", "measured_at"),
        ("events", "kind", "at"),
    ):
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    op.create_index(
        "ix_workitems_with_window",
        "workitems",
        ["state", "window", "not_before"],
        sqlite_where=sa.text("window IS NOT NULL"),
        # A reserved word there.
        postgresql_where=sa.text('"window" IS NOT NULL'),
    )
