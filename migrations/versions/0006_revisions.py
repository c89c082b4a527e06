"""What replaces what: workitems and their predecessors, evidence withdrawn or retracted, contents chosen by people."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
STATES = "state IN ('PENDING', 'SENT', 'COMMITTED', 'FAILED', 'WITHDRAWN', 'RETRACTED')"
STUDIES_OF_CONFLICTS = """UPDATE conflicting_instances SET study_instance_uid = COALESCE(
    (SELECT instances.study_instance_uid FROM instances
     WHERE instances.sop_instance_uid = conflicting_instances.sop_instance_uid), '')"""


def upgrade() -> None:
    """Columns, and two more states of a delivery."""
    op.add_column("workitems", sa.Column("predecessor", sa.Text))
    op.add_column("workitems", sa.Column("superseded_by", sa.Text))
    op.add_column("deliveries", sa.Column("superseded_by", sa.Text))
    for table, name, kind, default in (
        ("instances", "replaced", sa.Boolean(), sa.false()),
        ("conflicting_instances", "study_instance_uid", sa.Text(), sa.text("''")),
        ("evidence", "rejects", JSON, sa.text("'[]'")),
    ):
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
    op.execute(STUDIES_OF_CONFLICTS)
    op.create_index(
        "ix_conflicting_instances_study_instance_uid",
        "conflicting_instances",
        ["study_instance_uid"],
    )
    op.create_index("ix_evidence_series_instance_uid", "evidence", ["series_instance_uid"])
    _allow_states()
    superseded = sa.column("superseded_by").is_not(None)
    op.create_index(
        "ix_deliveries_superseded",
        "deliveries",
        ["destination", "state"],
        sqlite_where=superseded,
        postgresql_where=superseded,
    )


def _allow_states() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_deliveries_state"), "deliveries", type_="check")
        op.create_check_constraint(op.f("ck_deliveries_state"), "deliveries", STATES)
        return
    # SQLite changes no constraint: the table is made again and its rows copied. Alembic leaves the old checks behind.
    with op.batch_alter_table("deliveries", recreate="always") as batch:
        batch.create_check_constraint(op.f("ck_deliveries_state"), STATES)
