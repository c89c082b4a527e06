"""Rules say which inputs they want and how long a study waits for one; decisions say for which input, coded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Columns for pipelines of several inputs."""
    for name, kind, default in (
        ("roles", JSON, "'{}'"),
        ("wait_s", sa.Integer(), "1800"),
        ("without", JSON, "'[]'"),
    ):
        column = sa.Column(name, kind, nullable=False, server_default=sa.text(default))
        op.add_column("rules", column)
    for name in ("role", "code"):
        column = sa.Column(name, sa.Text, nullable=False, server_default=sa.text("''"))
        op.add_column("decisions", column)
    op.add_column("studies", sa.Column("waits_until", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_studies_waiting",
        "studies",
        ["waits_until"],
        sqlite_where=sa.text("waits_until IS NOT NULL"),
        postgresql_where=sa.text("waits_until IS NOT NULL"),
    )
