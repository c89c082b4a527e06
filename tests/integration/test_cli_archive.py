"""`osteonode archive` and `osteonode db backup`, in this process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from dicomgen import make_series, save_all
from pydicom.dataset import Dataset

from migrations.commands import upgrade
from node.cli import main
from node.receiving import Received, receive
from storage.archive import Archive
from storage.index import Index, instances, open_index, studies
from storage.model import utcnow

Run = Callable[..., tuple[int, str]]
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the console script does; exit code and what it said."""
    config = tmp_path / "config.toml"
    config.write_text('[node]\ndata = "data"\n[retention]\nreceived_days = 0.0000001\n')

    def call(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


@pytest.fixture
def series(tmp_path: Path) -> list[Dataset]:
    """Received by a node that is not running now."""
    url = f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}"
    (tmp_path / "data").mkdir()
    upgrade(url)
    made = make_series()
    archive = Archive(str(tmp_path / "data" / "archive"))
    with open_index(url) as index:
        for ds, path in zip(made, save_all(made, tmp_path / "sent"), strict=True):
            keep(ds, path, archive, index)
        study = made[0].StudyInstanceUID
        studies.record_evaluation(
            index,
            study_instance_uid=study,
            revision=len(made),
            decisions=(),
            workitems=(),
            now=utcnow(),
        )
    return made


def keep(ds: Dataset, path: Path, archive: Archive, index: Index) -> None:
    file = path.read_bytes()
    data = file[144 + int.from_bytes(file[140:144], "little") :]
    receipt = receive(
        Received(
            sop_class_uid=CT,
            sop_instance_uid=ds.SOPInstanceUID,
            transfer_syntax_uid=ds.file_meta.TransferSyntaxUID,
            calling_ae="CT1",
            called_ae="OSTEONODE",
        ),
        data,
        archive,
        index,
    )
    assert receipt.status == 0x0000


def file_of(tmp_path: Path, ds: Dataset) -> Path:
    with open_index(f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}") as index:
        return tmp_path / "data" / "archive" / instances.get(index, ds.SOPInstanceUID).archive_key


def test_verify_says_what_is_wrong_and_show_says_it_too(
    run: Run, series: list[Dataset], tmp_path: Path
) -> None:
    code, said = run("archive", "verify", "--all")
    assert (code, "none" in said) == (0, True)
    file_of(tmp_path, series[0]).unlink()
    study = series[0].StudyInstanceUID
    for scope in (("--all",), ("--since", "1h"), ("--study", study[-12:])):
        code, said = run("archive", "verify", *scope, "--json")
        answer = json.loads(said)
        assert (code, answer["checked"], answer["counts"]) == (1, len(series), {"missing": 1})
    assert "1 missing: The archive has no such file." in run("studies", "show", study)[1]
    (mark,) = json.loads(run("studies", "show", study, "--json")[1])["files"]
    assert (mark["state"], mark["sop_instance_uid"]) == ("MISSING", series[0].SOPInstanceUID)


def test_repair_indexes_what_has_no_row(run: Run, series: list[Dataset], tmp_path: Path) -> None:
    database = tmp_path / "data" / "index.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute(
            "DELETE FROM instances WHERE sop_instance_uid = ?", (series[0].SOPInstanceUID,)
        )
    connection.close()
    code, said = run("archive", "repair", "--all", "--json")
    assert (code, json.loads(said)["repaired"]) == (0, [])  # too young
    code, said = run("archive", "repair", "--all", "--min-age", "0", "--json")
    (done,) = json.loads(said)["repaired"]
    assert (code, done["action"], done["kind"]) == (0, "indexed", "orphan")
    assert file_of(tmp_path, series[0]).exists()
    code, said = run("archive", "repair", "--all", "--min-age", "0")
    assert (code, "Nothing to repair." in said) == (0, True)


@pytest.mark.parametrize("scope", [(), ("--all", "--since", "7d"), ("--since", "yesterday")])
def test_a_scope_is_asked_for(run: Run, series: list[Dataset], scope: tuple[str, ...]) -> None:
    assert run("archive", "verify", *scope)[0] == 2


def test_expire_says_first_what_it_would_do(
    run: Run, series: list[Dataset], tmp_path: Path
) -> None:
    path = file_of(tmp_path, series[0])
    code, said = run("archive", "expire", "--dry-run", "--json")
    (one,) = json.loads(said)
    assert (code, one["what"], one["files"]) == (0, "received", len(series))
    assert path.exists()
    assert run("archive", "expire")[0] == 0
    assert not path.exists()
    shown = run("studies", "show", series[0].StudyInstanceUID)[1]
    assert f"{len(series)} expired: It was received more than 1e-07 days ago." in shown
    assert "Nothing expires." in run("archive", "expire")[1]
    assert run("archive", "verify", "--all")[0] == 0


def test_a_backup_is_a_database_and_overwrites_nothing(
    run: Run, series: list[Dataset], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite"
    code, said = run("db", "backup", copy, "--json")
    assert (code, json.loads(said)["bytes"]) == (0, copy.stat().st_size)
    with open_index(f"sqlite:///{copy}") as index:
        assert studies.get(index, series[0].StudyInstanceUID).instance_count == len(series)
    code, said = run("db", "backup", copy)
    assert (code, "is there already" in said) == (1, True)
    code, said = run("db", "backup", tmp_path / "no" / "folder.sqlite")
    assert (code, "No backup" in said) == (4, True)
