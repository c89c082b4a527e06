"""pg_dump and pg_restore, as docs/operations.md has them: an older index loses no instance."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from dicomgen import make_series
from postgresql import database, programs
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode
from sqlalchemy import make_url

from node.cli import main
from node.receiving import Received, receive
from storage.archive import Archive
from storage.index import Index, instances, open_index, studies
from storage.model import AddOutcome, utcnow

pytestmark = pytest.mark.peer("postgresql")
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def urls(
    postgresql_server: Callable[[str], str], postgresql_template: str
) -> Iterator[tuple[str, str]]:
    """A database in use, and a fresh one without tables."""
    with (
        database(postgresql_server, postgresql_template) as used,
        database(postgresql_server, "template0") as fresh,
    ):
        yield used, fresh


def keep(archive: Archive, index: Index, ds: Dataset) -> None:
    data = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert data is not None
    received = Received(
        sop_class_uid=CT,
        sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax_uid=EXPLICIT,
        calling_ae="CT1",
        called_ae="OSTEONODE",
    )
    assert receive(received, data, archive, index).outcome is AddOutcome.ADDED


def pg(program: str, url: str, *arguments: object) -> None:
    parsed = make_url(url)
    where = ["--host", str(parsed.query["host"]), "--username", "postgres"]
    command = [programs() / program, *where, "--dbname", str(parsed.database), *arguments]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def test_an_older_dump_in_a_fresh_database_loses_no_instance(
    urls: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used, fresh = urls
    archive = Archive(str(tmp_path / "archive"))
    early, late = make_series(study=1), make_series(study=2)
    dump = tmp_path / "index.dump"
    with open_index(used) as index:
        for ds in early[:-1]:
            keep(archive, index, ds)
        _evaluate(index, early)
        pg("pg_dump", used, "--format=custom", "--file", dump)
        for ds in (early[-1], *late):
            keep(archive, index, ds)
        before = [instances.get(index, ds.SOPInstanceUID) for ds in early + late]

    pg("pg_restore", fresh, "--clean", "--if-exists", dump)
    config = tmp_path / "config.toml"
    config.write_text(f'[storage]\ndatabase = "{fresh}"\narchive = "{tmp_path / "archive"}"\n')

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), *arguments])
        return int(ended.value.code or 0), capsys.readouterr().out

    missing = 1 + len(late)
    code, said = run("archive", "verify", "--all", "--min-age", "0", "--json")
    assert (code, json.loads(said)["counts"]) == (1, {"orphan": missing})
    code, said = run("archive", "repair", "--all", "--min-age", "0", "--json")
    assert (code, [one["action"] for one in json.loads(said)["repaired"]]) == (
        0,
        ["indexed"] * missing,
    )
    code, said = run("archive", "verify", "--all", "--min-age", "0", "--json")
    assert (code, json.loads(said)["counts"]) == (0, {})
    with open_index(fresh) as index:
        for instance in before:
            again = instances.get(index, instance.sop_instance_uid)
            assert abs(again.received_at - instance.received_at) < timedelta(seconds=5)
            assert replace(again, received_at=instance.received_at) == instance
        # Of both there is news: the one had been evaluated before its last instance came.
        waiting = {study.study_instance_uid for study in studies.to_evaluate(index)}
        assert waiting == {early[0].StudyInstanceUID, late[0].StudyInstanceUID}


def _evaluate(index: Index, series: list[Dataset]) -> None:
    uid = series[0].StudyInstanceUID
    studies.record_evaluation(
        index,
        study_instance_uid=uid,
        revision=studies.get(index, uid).revision,
        decisions=(),
        workitems=(),
        now=utcnow(),
    )
