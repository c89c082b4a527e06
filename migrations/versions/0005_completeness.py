"""Whether a study is whole: facts kept, ends of associations, answers, verdicts, holds; and runs with gaps."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Columns."""
    nullable: tuple[tuple[str, str, Any], ...] = (
        ("series", "facts", JSON),
        ("series", "facts_count", sa.Integer()),
        ("studies", "released_at", TIME),
        ("studies", "aborted_at", TIME),
        ("studies", "look_at", TIME),
        ("studies", "verdict", JSON),
        ("studies", "asked_of", sa.Text()),
        ("studies", "asked_at", TIME),
        ("studies", "ask_again_at", TIME),
        ("studies", "expected_series", sa.Integer()),
        ("studies", "expected_instances", sa.Integer()),
        ("studies", "expected_by_series", JSON),
        ("studies", "held_at", TIME),
        ("studies", "forced_at", TIME),
    )
    defaults: tuple[tuple[str, str, Any, Any], ...] = (
        ("studies", "associations", sa.Integer(), sa.text("0")),
        ("studies", "looked_revision", sa.Integer(), sa.text("0")),
        ("studies", "pace_s", sa.Double(), sa.text("0")),
        ("studies", "ask_attempts", sa.Integer(), sa.text("0")),
        ("studies", "ask_failure", sa.Text(), sa.text("''")),
        ("studies", "held_by", sa.Text(), sa.text("''")),
        ("studies", "held_reason", sa.Text(), sa.text("''")),
        ("rules", "incomplete", sa.Text(), sa.text("'hold'")),
        ("workitems", "lacks", JSON, sa.text("'[]'")),
    )
    for table, name, kind in nullable:
        op.add_column(table, sa.Column(name, kind))
    for table, name, kind, default in defaults:
        op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
