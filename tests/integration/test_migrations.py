"""Upgrades of an empty and of an older database, on both databases."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.types.json import Jsonb
from sqlalchemy import Engine, MetaData, create_engine, inspect, text

from migrations import commands
from storage import tables
from storage.errors import IndexUnavailable, SchemaOutdated
from storage.index import deliveries, events, open_index, rules, studies, workitems
from storage.model import DeliveryState, WorkitemState

ROOT = Path(__file__).resolve().parent.parent.parent
#: One study with a completed workitem and a delivery that is still owed, as revision 0001 kept them.
ROWS_OF_0001 = (
    """INSERT INTO studies VALUES ('1.2', 'P1', 'A1', '20260301', 'Abdomen', 3, 3, 1, 3, :noon, :noon)""",
    """INSERT INTO workitems (workitem_uid, study_instance_uid, study_revision, rule, pipeline, pipeline_version,
        parameters, destinations, priority, state, scheduled_at, attempts, timings)
        VALUES ('1.3', '1.2', 3, 'bones', 'ct_skeleton', '1.0.0', '{}', '["PACS"]', 50, 'COMPLETED', :noon, 1,
        :timings)""",
    """INSERT INTO evidence VALUES ('1.4', '1.2.840.10008.5.1.4.1.1.66.4', '1.5', '1.2', '1.2.840.10008.1.2.1', '1.3',
        'SEG', 'a/b/c.dcm', 10, 'd', :noon)""",
    """INSERT INTO deliveries (sop_instance_uid, destination, state, attempts, next_attempt_at, message, updated_at)
        VALUES ('1.4', 'PACS', 'PENDING', 2, :noon, 'refused', :noon)""",
)


def engine_of(url: str) -> Engine:
    return create_engine(url)


def test_an_empty_database_is_upgraded(empty_database_url: str) -> None:
    assert commands.current(empty_database_url) is None
    commands.upgrade(empty_database_url)
    assert commands.current(empty_database_url) == commands.head()
    with open_index(empty_database_url) as index:
        assert studies.list_studies(index, limit=10) == ()


def test_upgrading_twice_changes_nothing(empty_database_url: str) -> None:
    commands.upgrade(empty_database_url)
    commands.upgrade(empty_database_url)
    assert commands.current(empty_database_url) == commands.head()


def test_the_tables_know_the_head() -> None:
    assert commands.head() == tables.SCHEMA_REVISION


@pytest.mark.parametrize("start", [None, "0001"])
def test_upgraded_tables_are_those_of_the_code(empty_database_url: str, start: str | None) -> None:
    if start is not None:
        commands.upgrade(empty_database_url, start)
    commands.upgrade(empty_database_url)
    engine = engine_of(empty_database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_upgraded_constraints_and_partial_indexes_are_those_of_the_code(
    empty_database_url: str,
) -> None:
    """What Alembic does not compare."""
    commands.upgrade(empty_database_url)
    upgraded = _constraints(empty_database_url)
    engine = engine_of(empty_database_url)
    with engine.begin() as connection:
        tables.metadata.drop_all(connection)
        tables.metadata.create_all(connection)
    engine.dispose()
    assert upgraded == _constraints(empty_database_url)
    assert any("workitems_state" in line for line in upgraded)
    assert any("revision > evaluated_revision" in line for line in upgraded)


def _constraints(url: str) -> set[str]:
    engine = engine_of(url)
    inspector = inspect(engine)
    found = set()
    for table in tables.metadata.tables:
        found |= {f"{table} {check}" for check in inspector.get_check_constraints(table)}
        found |= {f"{table} {key}" for key in inspector.get_foreign_keys(table)}
        for index in inspector.get_indexes(table):
            where = {k: str(v) for k, v in index.get("dialect_options", {}).items() if "where" in k}
            found.add(f"{table} {index['name']} {index['column_names']} {where}")
    engine.dispose()
    return found


def test_an_older_database_keeps_its_rows(empty_database_url: str) -> None:
    commands.upgrade(empty_database_url, "0001")
    engine = engine_of(empty_database_url)
    on_sqlite = engine.dialect.name == "sqlite"
    noon = "2026-03-01 12:00:00.000000" if on_sqlite else datetime(2026, 3, 1, 12, tzinfo=UTC)
    timings = '{"infer": 2.5}' if on_sqlite else Jsonb({"infer": 2.5})
    with engine.begin() as connection:
        for statement in ROWS_OF_0001:
            connection.execute(text(statement), {"noon": noon, "timings": timings})
    engine.dispose()
    with pytest.raises(SchemaOutdated, match=r"0001.*osteonode db upgrade"):
        open_index(empty_database_url)

    commands.upgrade(empty_database_url)

    with open_index(empty_database_url) as index:
        workitem = workitems.get(index, "1.3")
        assert (workitem.state, workitem.notices) == (WorkitemState.COMPLETED, ())
        assert workitem.timings == {"infer": 2.5}
        (delivery,) = deliveries.claim_due(
            index, owner="node", now=workitem.scheduled_at, lease_s=60, limit=5
        )
        assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 2)
        assert events.list_events(index) == ()


def test_a_rule_of_an_older_database_goes_on_with_every_series(empty_database_url: str) -> None:
    """What it says in its history, too: a rollback means what it meant."""
    commands.upgrade(empty_database_url, "0004")
    engine = engine_of(empty_database_url)
    stored = {
        **{"name": "bones", "pipeline": "ct_skeleton", "clauses": ["Modality = CT"]},
        **{"destinations": [], "priority": 50, "enabled": True, "parameters": {}, "version": 1},
    }
    with engine.begin() as connection:
        old = MetaData()
        old.reflect(connection, only=["rules", "rule_history"])
        connection.execute(old.tables["rules"].insert(), stored)
        change = {
            **{"name": "bones", "version": 1, "actor": "anna", "action": "added"},
            **{"changed_at": datetime(2026, 3, 1, 12, tzinfo=UTC), "rule": stored},
        }
        connection.execute(old.tables["rule_history"].insert(), change)
    engine.dispose()
    commands.upgrade(empty_database_url)
    with open_index(empty_database_url) as index:
        assert rules.get(index, "bones").each
        new = replace(rules.get(index, "bones"), each=False, prefer=("most slices",))
        rules.edit(index, new, actor="ben")
        assert rules.restore(index, "bones", 1, actor="ben").each


def test_a_database_without_tables_names_the_command(empty_database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match="osteonode db upgrade"):
        open_index(empty_database_url)
    if empty_database_url.startswith("sqlite"):
        assert not Path(empty_database_url.removeprefix("sqlite:///")).exists()


def test_a_newer_database_is_refused(database_url: str) -> None:
    engine = engine_of(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(SchemaOutdated, match="9999"):
        open_index(database_url)
    open_index(database_url, check_schema=False).close()


def test_an_interrupted_upgrade_leaves_the_database_as_it_was(empty_database_url: str) -> None:
    commands.upgrade(empty_database_url, "0001")
    engine = engine_of(empty_database_url)
    with engine.begin() as connection:
        # In the way of 0002's last statement.
        connection.execute(text("CREATE TABLE conflicting_instances (n INTEGER)"))
    with pytest.raises(Exception, match="already exists"):
        commands.upgrade(empty_database_url)
    assert commands.current(empty_database_url) == "0001"
    assert "notices" not in {c["name"] for c in inspect(engine).get_columns("workitems")}
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE conflicting_instances"))
    engine.dispose()
    commands.upgrade(empty_database_url)
    assert commands.current(empty_database_url) == commands.head()


def test_nodes_that_start_at_once_upgrade_one_after_the_other(empty_database_url: str) -> None:
    failures: list[Exception] = []

    def upgrade() -> None:
        try:
            commands.upgrade(empty_database_url)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert commands.current(empty_database_url) == commands.head()


def test_an_upgrade_waits_for_whoever_writes_to_a_new_sqlite_file(tmp_path: Path) -> None:
    """SQLite answers a change of journal mode at once with "locked" while another writes."""
    path = tmp_path / "index.sqlite"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, lambda: writer.execute("ROLLBACK"))
    release.start()
    commands.upgrade(f"sqlite:///{path}")
    release.join()
    writer.close()
    assert commands.current(f"sqlite:///{path}") == commands.head()


@pytest.mark.parametrize(
    "url", ["no url", "mysql://host/name", "postgresql://u:secret@localhost:1/name"]
)
def test_a_database_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(IndexUnavailable) as caught:
        open_index(url)
    assert "secret" not in str(caught.value)


def test_migrations_run_from_the_folder_they_are_installed_in(tmp_path: Path) -> None:
    """As from a wheel: no alembic.ini, another working folder, per cent signs and spaces in the path."""
    site = tmp_path / "site 100%s"
    for package in ("storage", "migrations"):
        shutil.copytree(
            ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    code = (
        "from migrations import commands; import storage; "
        f"commands.upgrade('sqlite:///{tmp_path}/index.sqlite'); "
        f"print(commands.current('sqlite:///{tmp_path}/index.sqlite'), storage.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.split(maxsplit=1) == [commands.head(), f"{site}/storage/__init__.py\n"]
