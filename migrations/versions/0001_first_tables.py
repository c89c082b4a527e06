"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """First tables."""
    _create_held()
    _create_rules()
    _create_workitems()
    _create_results()
    _create_owed()


def _create_held() -> None:
    """What is held."""
    op.create_table(
        "instances",
        sa.Column("sop_instance_uid", sa.Text, nullable=False),
        sa.Column("sop_class_uid", sa.Text, nullable=False),
        sa.Column("series_instance_uid", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text, nullable=False),
        sa.Column("archive_key", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("called_ae", sa.Text, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("header", JSON, nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_instances")),
    )
    op.create_index(
        op.f("ix_instances_series_instance_uid"), "instances", ["series_instance_uid"], unique=False
    )
    op.create_table(
        "series",
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("series_instance_uid", sa.Text, nullable=False),
        sa.Column("modality", sa.Text, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("instance_count", sa.Integer, nullable=False),
        sa.Column("first_received_at", TIME, nullable=False),
        sa.Column("last_received_at", TIME, nullable=False),
        sa.Column("header", JSON, nullable=False),
        sa.PrimaryKeyConstraint(
            "study_instance_uid", "series_instance_uid", name=op.f("pk_series")
        ),
    )
    op.create_table(
        "studies",
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("patient_id", sa.Text, nullable=False),
        sa.Column("accession_number", sa.Text, nullable=False),
        sa.Column("study_date", sa.Text, nullable=False),
        sa.Column("study_description", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("evaluated_revision", sa.Integer, nullable=False),
        sa.Column("series_count", sa.Integer, nullable=False),
        sa.Column("instance_count", sa.Integer, nullable=False),
        sa.Column("first_received_at", TIME, nullable=False),
        sa.Column("last_received_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_studies")),
    )
    op.create_index(
        op.f("ix_studies_last_received_at"), "studies", ["last_received_at"], unique=False
    )
    op.create_index(
        "ix_studies_with_news",
        "studies",
        ["study_instance_uid"],
        unique=False,
        sqlite_where=sa.text("revision > evaluated_revision"),
        postgresql_where=sa.text("revision > evaluated_revision"),
    )


def _create_rules() -> None:
    """What shall run."""
    op.create_table(
        "rules",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("clauses", JSON, nullable=False),
        sa.Column("destinations", JSON, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rules")),
    )
    op.create_table(
        "rule_history",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("rule", JSON, nullable=True),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_rule_history")),
    )
    op.create_table(
        "destinations",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("called_ae", sa.Text, nullable=False),
        sa.Column("calling_ae", sa.Text, nullable=True),
        sa.CheckConstraint("port BETWEEN 1 AND 65535", name=op.f("ck_destinations_port")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destinations")),
    )
    op.create_table(
        "pipelines",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("device_uid", sa.Text, nullable=False),
        sa.Column("weights_sha256", sa.Text, nullable=False),
        sa.Column("first_seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", "version", "device_uid", name=op.f("pk_pipelines")),
    )
    op.create_table(
        "decisions",
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("rule_version", sa.Integer, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("series_instance_uid", sa.Text, nullable=False),
        sa.Column("matched", sa.Boolean, nullable=False),
        sa.Column("clauses", JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("workitem_uid", sa.Text, nullable=True),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"],
            ["studies.study_instance_uid"],
            name=op.f("fk_decisions_study_instance_uid_studies"),
        ),
        sa.PrimaryKeyConstraint(
            "study_instance_uid", "revision", "position", name=op.f("pk_decisions")
        ),
    )


def _create_workitems() -> None:
    """What runs."""
    op.create_table(
        "workitems",
        sa.Column("workitem_uid", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("study_revision", sa.Integer, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("pipeline_version", sa.Text, nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("destinations", JSON, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("scheduled_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("owner", sa.Text, nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("reason_code", sa.Text, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("timings", JSON, nullable=False),
        sa.CheckConstraint(
            "(state = 'IN PROGRESS') = (lease_until IS NOT NULL)", name=op.f("ck_workitems_lease")
        ),
        sa.CheckConstraint(
            "state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED')",
            name=op.f("ck_workitems_state"),
        ),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"],
            ["studies.study_instance_uid"],
            name=op.f("fk_workitems_study_instance_uid_studies"),
        ),
        sa.PrimaryKeyConstraint("workitem_uid", name=op.f("pk_workitems")),
    )
    op.create_index(
        op.f("ix_workitems_state_priority_scheduled_at"),
        "workitems",
        ["state", "priority", "scheduled_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_workitems_study_instance_uid"), "workitems", ["study_instance_uid"], unique=False
    )
    op.create_table(
        "workitem_inputs",
        sa.Column("workitem_uid", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("series_instance_uid", sa.Text, nullable=False),
        sa.Column("sop_instance_uids", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["workitem_uid"],
            ["workitems.workitem_uid"],
            name=op.f("fk_workitem_inputs_workitem_uid_workitems"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("workitem_uid", "position", name=op.f("pk_workitem_inputs")),
        sa.UniqueConstraint(
            "workitem_uid", "role", name=op.f("uq_workitem_inputs_workitem_uid_role")
        ),
    )


def _create_results() -> None:
    """What runs bring."""
    op.create_table(
        "evidence",
        sa.Column("sop_instance_uid", sa.Text, nullable=False),
        sa.Column("sop_class_uid", sa.Text, nullable=False),
        sa.Column("series_instance_uid", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text, nullable=False),
        sa.Column("workitem_uid", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("archive_key", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["workitem_uid"],
            ["workitems.workitem_uid"],
            name=op.f("fk_evidence_workitem_uid_workitems"),
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_evidence")),
    )
    op.create_index(
        op.f("ix_evidence_study_instance_uid"), "evidence", ["study_instance_uid"], unique=False
    )
    op.create_index(op.f("ix_evidence_workitem_uid"), "evidence", ["workitem_uid"], unique=False)
    op.create_table(
        "measurements",
        sa.Column("measurement_id", SERIAL, nullable=False),
        sa.Column("workitem_uid", sa.Text, nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("pipeline_version", sa.Text, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=False),
        sa.Column("series_instance_uid", sa.Text, nullable=False),
        sa.Column("segment_number", sa.Integer, nullable=True),
        sa.Column("segment_label", sa.Text, nullable=False),
        sa.Column("concept_value", sa.Text, nullable=False),
        sa.Column("concept_scheme", sa.Text, nullable=False),
        sa.Column("concept_meaning", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("measured_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["workitem_uid"],
            ["workitems.workitem_uid"],
            name=op.f("fk_measurements_workitem_uid_workitems"),
        ),
        sa.PrimaryKeyConstraint("measurement_id", name=op.f("pk_measurements")),
    )
    op.create_index(
        op.f("ix_measurements_pipeline_concept_value_measured_at"),
        "measurements",
        ["pipeline", "concept_value", "measured_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_measurements_study_instance_uid"),
        "measurements",
        ["study_instance_uid"],
        unique=False,
    )
    op.create_index(
        op.f("ix_measurements_workitem_uid"), "measurements", ["workitem_uid"], unique=False
    )


def _create_owed() -> None:
    """What is owed, and what happened."""
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", SERIAL, nullable=False),
        sa.Column("sop_instance_uid", sa.Text, nullable=False),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.CheckConstraint(
            "state IN ('PENDING', 'SENT', 'COMMITTED', 'FAILED')", name=op.f("ck_deliveries_state")
        ),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["evidence.sop_instance_uid"],
            name=op.f("fk_deliveries_sop_instance_uid_evidence"),
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint(
            "sop_instance_uid",
            "destination",
            name=op.f("uq_deliveries_sop_instance_uid_destination"),
        ),
    )
    op.create_index(
        op.f("ix_deliveries_state_destination_next_attempt_at"),
        "deliveries",
        ["state", "destination", "next_attempt_at"],
        unique=False,
    )
    op.create_table(
        "events",
        sa.Column("event_id", SERIAL, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("study_instance_uid", sa.Text, nullable=True),
        sa.Column("workitem_uid", sa.Text, nullable=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_at"), "events", ["at"], unique=False)
    op.create_index(
        op.f("ix_events_study_instance_uid"), "events", ["study_instance_uid"], unique=False
    )
    op.create_index(op.f("ix_events_workitem_uid"), "events", ["workitem_uid"], unique=False)
