"""The tables of the index: the same on SQLite and PostgreSQL.

Instances carry no foreign key to their series: one transaction writes both, and the check would cost the receiving
path a look-up per instance.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

#: The head of `migrations/`; a test compares them.
SCHEMA_REVISION = "0013"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, UTC in the database and outside; text that sorts by time on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: nobody could say when it was."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"A time without a zone: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite gives naive values back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


JsonValue = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
#: SQLite counts by itself only in a column declared INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")

# -- what is held ---------------------------------------------------------------------------------

instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("archive_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("calling_ae", Text, nullable=False),
    Column("called_ae", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("own", Boolean, nullable=False),
    # After the others: SQLite reads the columns before it without the pages it overflows into.
    Column("header", JsonValue, nullable=False),
    Column("replaced", Boolean, nullable=False, server_default=false()),
    Index(None, "series_instance_uid"),
)

#: Other contents that came under a SOP Instance UID already held.
conflicting_instances = Table(
    "conflicting_instances",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("archive_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("calling_ae", Text, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    # Of the instance that is held: where people look for it.
    Column("study_instance_uid", Text, nullable=False, server_default=text("''")),
    Index(None, "study_instance_uid"),
)

#: Files of the archive that are not as their rows say, or were not: one that is whole has no line.
file_marks = Table(
    "file_marks",
    metadata,
    Column("archive_key", Text, primary_key=True),
    Column("sop_instance_uid", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    CheckConstraint("state IN ('MISSING', 'DAMAGED', 'EXPIRED', 'RETURNED')", name="state"),
    Index(None, "study_instance_uid"),
)

#: By study and series: broken senders put one Series Instance UID into two studies.
series = Table(
    "series",
    metadata,
    Column("study_instance_uid", Text, primary_key=True),
    Column("series_instance_uid", Text, primary_key=True),
    Column("modality", Text, nullable=False),
    Column("calling_ae", Text, nullable=False),
    Column("own", Boolean, nullable=False),
    Column("instance_count", Integer, nullable=False),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("header", JsonValue, nullable=False),
    #: Derived once, by an evaluation; they hold while `facts_count` is `instance_count` (`storage.index.facts`).
    Column("facts", JsonValue),
    Column("facts_count", Integer),
)

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", Text, primary_key=True),
    Column("patient_id", Text, nullable=False),
    Column("accession_number", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("study_description", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("evaluated_revision", Integer, nullable=False),
    Column("series_count", Integer, nullable=False),
    Column("instance_count", Integer, nullable=False),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("waits_until", UtcDateTime),
    # Whether it is whole: what the end of an association says, ...
    Column("released_at", UtcDateTime),
    Column("aborted_at", UtcDateTime),
    Column("associations", Integer, nullable=False, server_default=text("0")),
    # ... what was found when it was looked at last, ...
    Column("looked_revision", Integer, nullable=False, server_default=text("0")),
    Column("look_at", UtcDateTime),
    Column("pace_s", Double, nullable=False, server_default=text("0")),
    Column("verdict", JsonValue),
    # ... what the sender's archive answers, ...
    Column("asked_of", Text),
    Column("asked_at", UtcDateTime),
    Column("ask_again_at", UtcDateTime),
    Column("ask_attempts", Integer, nullable=False, server_default=text("0")),
    Column("ask_failure", Text, nullable=False, server_default=text("''")),
    Column("expected_series", Integer),
    Column("expected_instances", Integer),
    Column("expected_by_series", JsonValue),
    # ... and what a person said.
    Column("held_at", UtcDateTime),
    Column("held_by", Text, nullable=False, server_default=text("''")),
    Column("held_reason", Text, nullable=False, server_default=text("''")),
    Column("forced_at", UtcDateTime),
    Index(None, "last_received_at"),
    Index(None, "patient_id"),
)
Index(
    "ix_studies_with_news",
    studies.c.study_instance_uid,
    sqlite_where=studies.c.revision > studies.c.evaluated_revision,
    postgresql_where=studies.c.revision > studies.c.evaluated_revision,
)
Index(
    "ix_studies_waiting",
    studies.c.waits_until,
    sqlite_where=studies.c.waits_until.is_not(None),
    postgresql_where=studies.c.waits_until.is_not(None),
)

# -- what shall run -------------------------------------------------------------------------------

rules = Table(
    "rules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("clauses", JsonValue, nullable=False),
    Column("destinations", JsonValue, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("parameters", JsonValue, nullable=False),
    Column("version", Integer, nullable=False),
    Column("roles", JsonValue, nullable=False, server_default=text("'{}'")),
    Column("wait_s", Integer, nullable=False, server_default=text("1800")),
    Column("without", JsonValue, nullable=False, server_default=text("'[]'")),
    Column("report_refusals", Boolean, nullable=False, server_default=false()),
    Column("window", Text, nullable=False, server_default=text("''")),
    Column("incomplete", Text, nullable=False, server_default=text("'hold'")),
    Column("prefer", JsonValue, nullable=False, server_default=text("'[]'")),
    Column("each", Boolean, nullable=False, server_default=false()),
    Column("prior", Text, nullable=False, server_default=text("''")),
    Column("prior_days", Integer, nullable=False, server_default=text("1095")),
    Column("prior_from", Text, nullable=False, server_default=text("''")),
)

#: Outlives the rule: a decision names rule and version for good.
rule_history = Table(
    "rule_history",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("rule", JsonValue),
)

destinations = Table(
    "destinations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("called_ae", Text, nullable=False),
    Column("calling_ae", Text),
    Column("profile", Text, nullable=False, server_default=text("'generic'")),
    Column("retrieve", Text, nullable=False, server_default=text("'move'")),
    Column("tls", Boolean, nullable=False, server_default=false()),
    Column("commitment", Boolean, nullable=False, server_default=false()),
    Column("window", Text, nullable=False, server_default=text("''")),
    Column("paused_at", UtcDateTime),
    Column("url", Text, nullable=False, server_default=text("''")),
    CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
)

pipelines = Table(
    "pipelines",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("device_uid", Text, primary_key=True),
    Column("weights_sha256", Text, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
)

#: Why each series of each evaluated revision runs, or does not.
decisions = Table(
    "decisions",
    metadata,
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("rule_version", Integer, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("matched", Boolean, nullable=False),
    Column("clauses", JsonValue, nullable=False),
    Column("reason", Text, nullable=False),
    Column("workitem_uid", Text),
    Column("role", Text, nullable=False, server_default=text("''")),
    Column("code", Text, nullable=False, server_default=text("''")),
)

# -- what runs ------------------------------------------------------------------------------------

workitems = Table(
    "workitems",
    metadata,
    Column("workitem_uid", Text, primary_key=True),
    Column("study_instance_uid", ForeignKey("studies.study_instance_uid"), nullable=False),
    Column("study_revision", Integer, nullable=False),
    Column("rule", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("pipeline_version", Text, nullable=False),
    Column("parameters", JsonValue, nullable=False),
    Column("destinations", JsonValue, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("scheduled_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("owner", Text),
    Column("lease_until", UtcDateTime),
    Column("reason_code", Text),
    Column("reason", Text),
    Column("timings", JsonValue, nullable=False),
    Column("notices", JsonValue, nullable=False, server_default=text("'[]'")),
    Column("report_refusals", Boolean, nullable=False, server_default=false()),
    Column("known_findings", JsonValue, nullable=False, server_default=text("'{}'")),
    Column("priority_reasons", JsonValue, nullable=False, server_default=text("'[]'")),
    # Who is lowest comes first: the second (since 1970) it waits from, less `AGE_S` for each point of priority. The
    # order of priority and age together is the same at every moment, so it can be stored and indexed.
    Column("turn", Double, nullable=False, server_default=text("0")),
    Column("window", Text),
    Column("held_at", UtcDateTime),
    Column("hold_reason", Text),
    Column("predecessor", Text),
    Column("superseded_by", Text),
    Column("lacks", JsonValue, nullable=False, server_default=text("'[]'")),
    Column("prior", JsonValue),
    # PS3.4 Table CC.1.1-1.
    CheckConstraint("state IN ('SCHEDULED', 'IN PROGRESS', 'COMPLETED', 'CANCELED')", name="state"),
    CheckConstraint("(state = 'IN PROGRESS') = (lease_until IS NOT NULL)", name="lease"),
    # All that a look for the next one asks: it is made every second, and thousands may wait for the night.
    Index(
        *("ix_workitems_queue", "state", "turn", "workitem_uid"),
        *("not_before", "held_at", "pipeline", "window"),
    ),
    Index(None, "state", "not_before"),
    Index(None, "state", "pipeline", "ended_at"),
    Index(None, "scheduled_at"),
    Index(None, "study_instance_uid"),
)
Index(
    "ix_workitems_with_window",
    workitems.c.state,
    workitems.c.window,
    workitems.c.not_before,
    sqlite_where=workitems.c.window.is_not(None),
    postgresql_where=workitems.c.window.is_not(None),
)

workitem_inputs = Table(
    "workitem_inputs",
    metadata,
    Column(
        "workitem_uid", ForeignKey("workitems.workitem_uid", ondelete="CASCADE"), primary_key=True
    ),
    Column("position", Integer, primary_key=True),
    Column("role", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("sop_instance_uids", JsonValue, nullable=False),
    UniqueConstraint("workitem_uid", "role"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("sop_instance_uid", Text, primary_key=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("workitem_uid", ForeignKey("workitems.workitem_uid"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("archive_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("profiles", JsonValue, nullable=False, server_default=text("'[]'")),
    Column("proof", JsonValue, nullable=False, server_default=text("'[]'")),
    Column("rejects", JsonValue, nullable=False, server_default=text("'[]'")),
    Index(None, "workitem_uid"),
    Index(None, "study_instance_uid"),
    Index(None, "series_instance_uid"),
)

findings = Table(
    "findings",
    metadata,
    Column("workitem_uid", ForeignKey("workitems.workitem_uid"), primary_key=True),
    Column("segment_number", Integer, primary_key=True, autoincrement=False),
    Column("segment_label", Text, nullable=False),
    Column("tracking_uid", Text, nullable=False),
    Index(None, "tracking_uid"),
)

measurements = Table(
    "measurements",
    metadata,
    Column("measurement_id", Serial, primary_key=True),
    Column("workitem_uid", ForeignKey("workitems.workitem_uid"), nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("pipeline_version", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("segment_number", Integer),
    Column("segment_label", Text, nullable=False),
    Column("concept_value", Text, nullable=False),
    Column("concept_scheme", Text, nullable=False),
    Column("concept_meaning", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("unit", Text, nullable=False),
    Column("measured_at", UtcDateTime, nullable=False),
    Index(None, "workitem_uid"),
    Index(None, "study_instance_uid"),
    Index(None, "pipeline", "measured_at"),
    Index(None, "measured_at"),
)

#: Studies before, wanted of archives to compare with.
prior_searches = Table(
    "prior_searches",
    metadata,
    Column("study_instance_uid", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("within_days", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("wanted_at", UtcDateTime, nullable=False),
    Column("deadline", UtcDateTime, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("prior_study_instance_uid", Text, nullable=False),
    Column("is_fetched", Boolean, nullable=False),
    Column("workitem_uids", JsonValue, nullable=False),
    Column("reason", Text, nullable=False),
    Column("owner", Text),
    Column("lease_until", UtcDateTime),
    CheckConstraint("state IN ('WANTED', 'FETCHED', 'SETTLED')", name="state"),
    Index(None, "state", "next_attempt_at"),
    Index(None, "prior_study_instance_uid"),
)

#: Unified Procedure Steps of worklists, from when we ask for one until the worklist knows what came of it.
procedure_steps = Table(
    "procedure_steps",
    metadata,
    Column("worklist", Text, primary_key=True),
    Column("procedure_step_uid", Text, primary_key=True),
    Column("transaction_uid", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("work", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("inputs", JsonValue, nullable=False),
    Column("claimed_at", UtcDateTime, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("workitems", JsonValue, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("reason_code", Text),
    Column("reason", Text),
    Column("owner", Text),
    Column("lease_until", UtcDateTime),
    CheckConstraint(
        "state IN ('CLAIMING', 'CLAIMED', 'PERFORMING', 'CANCELING', 'COMPLETED', 'CANCELED', 'LOST')",
        name="state",
    ),
    Index(None, "state", "worklist", "next_attempt_at"),
)

# -- what is owed, and what happened --------------------------------------------------------------

deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", Serial, primary_key=True),
    Column("sop_instance_uid", ForeignKey("evidence.sop_instance_uid"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("status", Integer),
    Column("message", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("owner", Text),
    Column("lease_until", UtcDateTime),
    Column("superseded_by", Text),
    Column("to_commit", Boolean, nullable=False, server_default=false()),
    Column("transaction_uid", Text),
    Column("failure_reason", Integer),
    CheckConstraint(
        "state IN ('PENDING', 'SENT', 'COMMITTED', 'FAILED', 'WITHDRAWN', 'RETRACTED')",
        name="state",
    ),
    UniqueConstraint("sop_instance_uid", "destination"),
    Index(None, "state", "destination", "next_attempt_at"),
    Index(None, "transaction_uid"),
)
Index(
    "ix_deliveries_to_commit",
    deliveries.c.destination,
    sqlite_where=text("to_commit"),
    postgresql_where=text("to_commit"),
)
Index(
    "ix_deliveries_superseded",
    deliveries.c.destination,
    deliveries.c.state,
    sqlite_where=deliveries.c.superseded_by.is_not(None),
    postgresql_where=deliveries.c.superseded_by.is_not(None),
)

#: Transactions of storage commitment; `deliveries.transaction_uid` says what each is about.
commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", Text, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("workitem_uid", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("deadline", UtcDateTime, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("owner", Text),
    Column("lease_until", UtcDateTime),
    CheckConstraint("state IN ('WANTED', 'ASKED', 'READING', 'SETTLED', 'EXPIRED')", name="state"),
    Index(None, "state", "destination", "next_attempt_at"),
)

events = Table(
    "events",
    metadata,
    Column("event_id", Serial, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("study_instance_uid", Text),
    Column("workitem_uid", Text),
    Column("outcome", Text, nullable=False),
    Column("detail", JsonValue, nullable=False),
    Index(None, "at"),
    Index(None, "kind", "at"),
    Index(None, "study_instance_uid"),
    Index(None, "workitem_uid"),
)
