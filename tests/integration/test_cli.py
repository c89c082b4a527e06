"""The command line: every command once, and bad input gets the right exit code and a sentence."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from dicomgen import make_instance, make_series, make_uid, save_all
from peer import Pacs
from pydicom import dcmread

from node.cli import main
from node.demo_study import write_demo_study
from pipelines.registry import find_pipelines
from storage.index import Index, deliveries, instances, open_index, studies, wholeness, workitems
from storage.model import (
    ClauseVerdict,
    Completion,
    Confidence,
    Decision,
    DeliveryState,
    Evidence,
    Instance,
    MeasurementRow,
    Verdict,
    VerdictReason,
    Workitem,
    WorkitemInput,
    WorkitemState,
    utcnow,
)

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
STUDY = make_uid("study")
SERIES = make_uid("series")
WORKITEM = make_uid("workitem")
EVIDENCE = make_uid("evidence")
ADD = ("rules", "add", "skeleton", "--yes", "--pipeline", "threshold_bone", "--to", "PACS")
WHERE = ("--where", "Modality = CT", "--where", "SeriesDescription ~ (?i)bone|body")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def config(tmp_path: Path, free_port: int) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[node]\nport = {free_port}\nhost = "127.0.0.1"\n[pipelines]\nfolders = ["{PIPELINES}"]\n'
        "[delivery]\ntimeout_s = 2\n"
    )
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, as the console script does."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), *map(str, arguments)])
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command sets logging up for its process; here that is the tests'."""
    root, pynetdicom = logging.getLogger(), logging.getLogger("pynetdicom")
    handlers, level, pynetdicom_level = root.handlers[:], root.level, pynetdicom.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    pynetdicom.setLevel(pynetdicom_level)
    structlog.reset_defaults()


@pytest.fixture
def ready(run: Run, pacs: Pacs) -> Run:
    """A database, and a destination that answers."""
    assert run("db", "upgrade").code == 0
    add = ("destinations", "add", "PACS", "--host", "127.0.0.1", "--port", pacs.port)
    assert run(*add, "--called", "PACS").code == 0
    return run


@pytest.fixture
def index(ready: Run, config: Path) -> Iterator[Index]:
    with open_index(f"sqlite:///{config.parent / 'data' / 'index.sqlite'}") as opened:
        yield opened


@pytest.fixture
def held(ready: Run, index: Index) -> Run:
    """A study that was analysed: one SEG made, and owed to PACS."""
    assert ready(*ADD, *WHERE).code == 0
    received = [_instance(number) for number in (1, 2)]
    instances.add_many(index, received)
    studies.record_evaluation(
        index,
        study_instance_uid=STUDY,
        revision=studies.get(index, STUDY).revision,
        decisions=[_decision()],
        workitems=[_workitem()],
        now=utcnow(),
    )
    assert workitems.claim(index, owner="test", now=utcnow(), lease_s=60) is not None
    assert workitems.complete(index, _completion())
    return ready


def _instance(number: int) -> Instance:
    return Instance(
        sop_instance_uid=make_uid("instance", number),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=SERIES,
        study_instance_uid=STUDY,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        archive_key=f"00/{number}",
        size=1000,
        digest=f"{number:064x}",
        calling_ae="CT1",
        called_ae="OSTEONODE",
        received_at=utcnow(),
        header={
            "Modality": ("CT",),
            "SeriesDescription": ("Bone [bold]\x1b[2J",),
            "StudyDescription": ("Abdomen",),
            "AccessionNumber": ("A1",),
            "PatientName": ("Doe^Jane",),
            "PatientID": ("P4711",),
        },
    )


def _decision() -> Decision:
    return Decision(
        rule="skeleton",
        rule_version=1,
        pipeline="threshold_bone",
        series_instance_uid=SERIES,
        matched=True,
        clauses=(ClauseVerdict(clause="Modality = CT", seen="CT", holds=True),),
        reason="Every clause holds: threshold_bone runs.",
        workitem_uid=WORKITEM,
    )


def _workitem() -> Workitem:
    return Workitem(
        workitem_uid=WORKITEM,
        study_instance_uid=STUDY,
        study_revision=1,
        rule="skeleton",
        pipeline="threshold_bone",
        pipeline_version="1.0.0",
        parameters={"threshold_hu": 200.0},
        inputs=(
            WorkitemInput(
                role="ct",
                series_instance_uid=SERIES,
                sop_instance_uids=(make_uid("instance", 1), make_uid("instance", 2)),
            ),
        ),
        destinations=("PACS",),
        priority=50,
        state=WorkitemState.SCHEDULED,
        scheduled_at=utcnow(),
    )


def _completion() -> Completion:
    now = utcnow()
    row = MeasurementRow(
        workitem_uid=WORKITEM,
        pipeline="threshold_bone",
        pipeline_version="1.0.0",
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
        segment_number=1,
        segment_label="Bone",
        concept_value="118565006",
        concept_scheme="SCT",
        concept_meaning="Volume",
        value=12.5,
        unit="mL",
        measured_at=now,
    )
    attenuation = replace(
        row,
        concept_value="112030",
        concept_scheme="DCM",
        concept_meaning="Attenuation",
        value=412.0,
        unit="[hnsf'U]",
    )
    evidence = Evidence(
        sop_instance_uid=EVIDENCE,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
        series_instance_uid=make_uid("evidence series"),
        study_instance_uid=STUDY,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        workitem_uid=WORKITEM,
        kind="SEG",
        archive_key="00/seg",
        size=1000,
        digest="0" * 64,
        created_at=now,
        profiles=("generic",),
    )
    return Completion(
        workitem_uid=WORKITEM,
        owner="test",
        evidence=(evidence,),
        measurements=(row, attenuation),
        started_at=now,
        ended_at=now,
        timings={"infer": 1.5},
        notices=(("cut-off", "The segment touches the edge."),),
        profiles={"PACS": "generic"},
    )


# -- whole processes ------------------------------------------------------------------------------


def test_help_answers_at_once_and_teaches() -> None:
    began = time.process_time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "node.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert time.process_time() - began < 5
    assert "osteonode demo" in done.stdout
    assert "Exit codes" in done.stdout
    for heavy in ("sqlalchemy", "pydicom", "torch", "pydantic.main"):
        assert f" {heavy}\n" not in done.stderr


def test_an_error_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[node]\nae_titel = 'X'\n")
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "config", "check"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("osteonode: config.toml: node.ae_titel: no such setting")


def test_a_reader_who_leaves_early_is_told_nothing(held: Run, config: Path) -> None:
    command = f"'{sys.executable}' -m node.cli --config '{config}' studies show {STUDY} --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


# -- configuration and database -------------------------------------------------------------------


def test_config_check_and_show(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTEONODE_STORAGE__DATABASE", "postgresql+psycopg://me:secret@host/db")
    checked, shown = run("config", "check"), run("config", "show", "--json")
    assert checked.code == shown.code == 0
    assert "threshold_bone" in checked.out
    assert shown.json["node"]["ae_title"] == "OSTEONODE"
    assert "host/db" in checked.out
    for answer in (checked, shown, run("config", "show")):
        assert "secret" not in answer.out


def test_a_broken_pipeline_folder_is_named(run: Run, config: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "broken").mkdir(parents=True)
    (tmp_path / "own" / "broken" / "pipeline.toml").write_text("name = 'broken'")
    config.write_text(f'[pipelines]\nfolders = ["{tmp_path / "own"}"]\n')
    for command in (("config", "check"), ("pipelines", "list")):
        answer = run(*command)
        assert answer.code == 6
        assert "broken/pipeline.toml" in answer.err


def test_database_upgrade_and_current(run: Run) -> None:
    missing = run("studies", "list")
    assert missing.code == 4
    assert "osteonode db upgrade" in missing.err
    assert run("db", "current").code == 4
    assert run("db", "upgrade").code == 0
    assert "as before" in run("db", "upgrade").out
    current = run("db", "current", "--json")
    assert current.code == 0
    assert current.json["current"] == current.json["head"]


def test_a_database_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/none"
    monkeypatch.setenv("OSTEONODE_STORAGE__DATABASE", url)
    for command in (("db", "upgrade"), ("db", "current"), ("studies", "list")):
        answer = run(*command)
        assert answer.code == 4
        assert "does not answer" in answer.err
        assert "secret" not in answer.err


# -- destinations and rules -----------------------------------------------------------------------


def test_destinations(ready: Run, pacs: Pacs) -> None:
    listed = ready("destinations", "list", "--json")
    assert listed.json == [
        {
            "name": "PACS",
            "host": "127.0.0.1",
            "port": pacs.port,
            "called_ae": "PACS",
            "calling_ae": None,
            "profile": "generic",
            "retrieve": "move",
            "tls": False,
            "commitment": False,
            "window": "",
            "paused_at": None,
            "url": "",
        }
    ]
    assert "answers" in ready("destinations", "echo", "PACS").out
    assert ready("destinations", "add", "PACS", "--host", "h", "--called", "X").code == 1
    assert ready("destinations", "profile", "PACS", "ohif").code == 0
    assert ready("destinations", "list", "--json").json[0]["profile"] == "ohif"
    unknown = ready("destinations", "profile", "PACS", "weasis")
    assert unknown.code == 3
    assert "generic, ohif, slicer, legacy, radiotherapy" in unknown.err
    profiles = {one["name"]: one for one in ready("destinations", "profiles", "--json").json}
    assert profiles["ohif"]["contours"]
    assert profiles["legacy"]["segmentation"] == "none"
    assert ready("destinations", "echo", "NONE").code == 1
    too_long = ready("destinations", "add", "B", "--host", "h", "--called", "X" * 17)
    assert too_long.code == 2
    pacs.stop()
    dead = ready("destinations", "echo", "PACS")
    assert dead.code == 5
    assert len(dead.err.splitlines()) == 1
    assert ready("destinations", "remove", "PACS").code == 0
    assert ready("destinations", "list", "--json").json == []


def test_rules_from_adding_to_history(ready: Run) -> None:
    assert ready(*ADD, *WHERE, "--priority", 50, "--parameter", "threshold_hu=250").code == 0
    shown = ready("rules", "show", "skeleton", "--json").json
    assert shown["where"] == ["Modality = CT", "SeriesDescription ~ (?i)bone|body"]
    assert shown["parameters"] == {"threshold_hu": 250}
    assert shown["version"] == 1
    assert ready("destinations", "remove", "PACS").code == 1
    assert ready("rules", "edit", "skeleton", "--priority", 80, "--yes").code == 0
    assert ready("rules", "edit", "skeleton").code == 2
    assert ready("rules", "disable", "skeleton").code == 0
    assert ready("rules", "list", "--json").json[0]["enabled"] is False
    assert ready("rules", "enable", "skeleton").code == 0
    assert ready("rules", "remove", "skeleton").code == 0
    history = ready("rules", "history", "skeleton", "--json").json
    assert [change["action"] for change in history] == [
        "added",
        "edited",
        "disabled",
        "enabled",
        "removed",
    ]
    assert {change["actor"].partition(":")[0] for change in history} == {"cli"}
    assert history[-1]["rule"] is None
    assert "skeleton" not in ready("rules", "list").out
    for command in ("show", "edit", "remove", "enable", "disable", "history"):
        extra = ("--priority", 1, "--yes") if command == "edit" else ()
        answer = ready("rules", command, "never", *extra)
        assert answer.code == 1, command
        assert "never" in answer.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--pipeline": "ct_skelton"}, "no pipeline 'ct_skelton'"),
        ({"--to": "PACKS"}, "no destination 'PACKS'"),
        ({"--where": "Modalitty = CT"}, "'Modalitty'"),
        ({"--where": "SeriesDescription ~ (bone"}, "no regular expression"),
        ({"--where": "SliceThickness < thin"}, "no number"),
        ({"--where": "CT"}, "Keyword operator value"),
        ({"--parameter": "treshold_hu=3"}, "treshold_hu"),
        ({"--parameter": "threshold_hu"}, "NAME=VALUE"),
        ({"--priority": "101"}, "100"),
    ],
)
def test_a_rule_that_could_never_run_is_refused(
    ready: Run, change: dict[str, str], said: str
) -> None:
    options = {"--pipeline": "threshold_bone", "--to": "PACS", "--where": "Modality = CT"} | change
    answer = ready("rules", "add", "x", *(part for pair in options.items() for part in pair))
    assert answer.code == 2
    assert said in " ".join(answer.err.replace("│", " ").split())
    assert ready("rules", "list", "--json").json == []


def test_rules_go_out_and_come_back(ready: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    ready(*ADD, *WHERE)
    assert ready("rules", "export", file).code == 0
    assert ready("rules", "export").out == file.read_text()
    assert "Nothing to change" in ready("rules", "import", file).out
    file.write_text(file.read_text().replace("priority = 50", "priority = 70"))
    assert ready("rules", "import", file, "--dry-run").out == "would change skeleton\n"
    assert ready("rules", "show", "skeleton", "--json").json["priority"] == 50
    assert ready("rules", "import", file).out == "change skeleton\n"
    assert ready("rules", "show", "skeleton", "--json").json["priority"] == 70
    other = file.read_text().replace("'skeleton'", "'other'")
    file.write_text(other)
    assert ready("rules", "import", file, "--replace").out == "add other\nremove skeleton\n"
    # One bad rule: none is taken.
    file.write_text(other.replace("'other'", "'good'") + other.replace("threshold_bone", "none"))
    refused = ready("rules", "import", file)
    assert refused.code == 2
    assert "no pipeline 'none'" in refused.err
    assert [rule["name"] for rule in ready("rules", "list", "--json").json] == ["other"]
    assert ready("rules", "import", tmp_path / "nowhere.toml").code == 2


# -- what is held ---------------------------------------------------------------------------------


PAIR = ("rules", "add", "hot", "--yes", "--pipeline", "hot_bone", "--to", "PACS")
ROLES = ("--role", "pet", "--role", "ct: SliceThickness <= 3", "--role", "ct: ImageType = AXIAL")


def test_a_rule_of_two_inputs(ready: Run, tmp_path: Path) -> None:
    assert ready(*PAIR, *ROLES, "--wait", "2h", "--without", "ct").code == 0
    shown = ready("rules", "show", "hot", "--json").json
    assert shown["roles"] == {"pet": [], "ct": ["SliceThickness <= 3", "ImageType = AXIAL"]}
    assert (shown["wait_s"], shown["without"], shown["where"]) == (7200, ["ct"], [])
    said = "pet; ct: SliceThickness <= 3 and ImageType = AXIAL; wait 2h, then run without ct"
    for command in (("show", "hot"), ("list",)):
        assert said in ready("rules", *command).out
    assert "ct: SliceThickness <= 3" in ready("rules", "history", "hot").out
    file = tmp_path / "rules.toml"
    ready("rules", "export", file)
    assert ready("rules", "remove", "hot").code == 0
    assert ready("rules", "import", file).out == "add hot\n"
    again = ready("rules", "show", "hot", "--json").json
    assert again == shown | {"version": 3}
    assert ready("rules", "edit", "hot", "--without", "none", "--wait", "90s", "--yes").code == 0
    edited = ready("rules", "show", "hot", "--json").json
    assert (edited["wait_s"], edited["without"], edited["roles"]) == (90, [], shown["roles"])
    assert "wait 90s, then hold" in ready("rules", "show", "hot").out
    cleared = ("--role", "none", "--where", "Modality in PT, CT")
    assert ready("rules", "edit", "hot", *cleared, "--yes").code == 0
    assert ready("rules", "show", "hot", "--json").json["roles"] == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--role", "mr: Modality = MR"), "no input 'mr'; it takes pet, ct"),
        (("--role", "ct"), "has no clause"),
        ((*ROLES, "--wait", "soon"), "'soon' is no wait; write 90s, 30m"),
        (("--role", "ct: Modality = CT", "--without", "pet"), "roles do not want"),
    ],
)
def test_roles_that_could_never_be_followed_are_refused(
    ready: Run, options: tuple[str, ...], said: str
) -> None:
    answer = ready(*PAIR, *options)
    assert answer.code == 2
    assert said in answer.err
    assert ready("rules", "list", "--json").json == []


def test_a_rule_is_tried_on_a_study_that_is_held(held: Run) -> None:
    tried = held("rules", "test", "skeleton", "--study", STUDY)
    assert tried.code == 0
    assert "threshold_bone" in tried.out
    assert "Modality = CT   seen: CT" in tried.out
    assert held("rules", "test", "skeleton", "--study", STUDY, "--json").json[0]["role"] == "ct"
    assert held("rules", "test", "never", "--study", STUDY).code == 1
    assert held("rules", "test", "skeleton", "--study", "9.9.9").code == 1


def test_a_rule_is_tried_on_the_past(held: Run, tmp_path: Path) -> None:
    (found,) = held("rules", "test", "skeleton", "--json").json
    assert (found["studies"], found["series"], found["runs"], found["new_runs"]) == (1, 1, 1, 0)
    assert found["gone_runs"] == 0
    assert found["cost"]["measured"] == 1
    file = tmp_path / "wanted.toml"
    file.write_text(
        "[[rule]]\nname = 'skeleton'\npipeline = 'threshold_bone'\nwhere = ['Modality = MR']\nto = ['PACS']\n"
        "[[rule]]\nname = 'all'\npipeline = 'threshold_bone'\nwhere = ['Modality = CT']\nto = ['PACS']\n"
        "parameters = { threshold_hu = 300.0 }\n"
    )
    changed, more = held("rules", "test", file, "--json").json
    assert (changed["runs"], changed["gone_runs"], changed["gone_examples"]) == (0, 1, [STUDY])
    assert (more["runs"], more["new_runs"], more["new_examples"]) == (1, 1, [STUDY])
    assert more["queue"]["workers"] == 1
    told = held("rules", "test", file, "--since", "2d").out
    assert "1 run that no rule in force makes today, in 1 study, as …" in told
    assert "the mean of the last 1)" in told
    assert held("rules", "test", tmp_path / "gone.toml").code == 2
    assert held("rules", "test", "never").code == 1
    assert held("rules", "test", "skeleton", "--since", "soon").code == 2
    assert [rule["name"] for rule in held("rules", "list", "--json").json] == ["skeleton"]


def test_a_rule_that_would_be_in_force_is_not_written_unasked(held: Run) -> None:
    """The tests' standard input is no terminal."""
    options = ("--pipeline", "threshold_bone", "--to", "PACS", "--where", "Modality = CT")
    refused = held("rules", "add", "more", *options)
    assert refused.code == 2
    assert "give --yes" in refused.err
    assert held("rules", "edit", "skeleton", "--priority", 1).code == 2
    assert [one["name"] for one in held("rules", "list", "--json").json] == ["skeleton"]
    # One that is off does nothing yet.
    assert held("rules", "add", "more", *options, "--disabled").code == 0
    assert held("rules", "add", "more", *options).code == 1


@pytest.mark.parametrize(("typed", "code", "count"), [("y\n", 0, 2), ("n\n", 1, 1)])
def test_at_a_terminal_the_replay_is_shown_and_one_is_asked(
    held: Run, config: Path, typed: str, code: int, count: int
) -> None:
    options = ("--pipeline", "threshold_bone", "--to", "PACS", "--where", "Modality = CT")
    ours, theirs = pty.openpty()
    command = (sys.executable, "-m", "node.cli", "--config", config, "rules", "add", "more")
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        keyboard.write(typed.encode())
        done = subprocess.run(
            [*map(str, command), *options],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "Rule more on the studies since 30d" in done.stdout
    assert "nothing: rules in force make all of them today" in done.stdout
    assert "Put it in force?" in done.stdout
    assert len(held("rules", "list", "--json").json) == count


def test_wishes_and_each(ready: Run) -> None:
    wishes = ("--prefer", "ConvolutionKernel ~ (?i)^b", "--prefer", "most slices")
    assert ready(*ADD, *WHERE, *wishes).code == 0
    shown = ready("rules", "show", "skeleton", "--json").json
    assert (shown["prefer"], shown["each"]) == (
        ["ConvolutionKernel ~ (?i)^b", "most slices"],
        False,
    )
    assert ready("rules", "edit", "skeleton", "--each", "--prefer", "none", "--yes").code == 0
    shown = ready("rules", "show", "skeleton", "--json").json
    assert (shown["prefer"], shown["each"]) == ([], True)
    assert ready("rules", "edit", "skeleton", "--one", "--yes").code == 0
    wrong = ready("rules", "edit", "skeleton", "--prefer", "most beautiful", "--yes")
    assert wrong.code == 2
    assert "Wish 'most beautiful'" in wrong.err


def test_history_tells_what_changed_and_rollback_puts_it_back(ready: Run) -> None:
    ready(*ADD, *WHERE)
    ready("rules", "edit", "skeleton", "--where", "Modality = CT", "--priority", 80, "--yes")
    told = ready("rules", "history", "skeleton").out.partition("Version 2")[2].splitlines()
    last = [" ".join(line.split()) for line in told[1:]]
    assert last == ["- where SeriesDescription ~ (?i)bone|body", "- priority 50", "+ priority 80"]
    ready("rules", "remove", "skeleton")
    back = ready("rules", "rollback", "skeleton", "--to", 1)
    assert back.out == "Rule skeleton is as it was in version 1, now version 4; it is in force.\n"
    history = ready("rules", "history", "skeleton", "--json").json
    assert [one["action"] for one in history] == ["added", "edited", "removed", "rolled-back"]
    assert history[1]["diff"][0] == {
        "field": "where",
        "removed": ["SeriesDescription ~ (?i)bone|body"],
        "added": [],
    }
    assert history[3]["rule"] == history[0]["rule"] | {"version": 4}
    again = ready("rules", "rollback", "skeleton", "--to", 4)
    assert "now version 4" in again.out
    for version, code in ((3, 1), (9, 1), (0, 2)):
        assert ready("rules", "rollback", "skeleton", "--to", version).code == code
    assert "rule-rolled-back" in ready("audit", "list").out


def test_check_names_what_is_wrong_and_ends_with_one(held: Run) -> None:
    notes = held("rules", "check", "--json")
    assert notes.code == 0
    assert {one["level"] for one in notes.json} == {"note"}
    assert "hot_bone" in {one["pipeline"] for one in notes.json}
    more = ("--pipeline", "threshold_bone", "--to", "PACS", "--yes")
    held("rules", "add", "twin", *more, "--where", "Modality = CT")
    held(
        "rules",
        "add",
        "never",
        *more,
        "--where",
        "SliceThickness < 3",
        "--where",
        "SliceThickness > 5",
    )
    checked = held("rules", "check")
    assert checked.code == 1
    assert "`SliceThickness < 3` and `SliceThickness > 5` cannot hold together" in checked.out
    assert checked.out.endswith("3 rules: 2 problems.\n")
    worst, second = held("rules", "check", "--json").json[:2]
    assert (worst["level"], worst["code"], worst["rules"]) == ("error", "never-matches", ["never"])
    assert (second["code"], second["rules"]) == ("redundant", ["skeleton", "twin"])
    assert STUDY in second["text"]


def test_a_study_is_explained(held: Run) -> None:
    held(
        "rules",
        "add",
        "off",
        "--pipeline",
        "threshold_bone",
        "--to",
        "PACS",
        "--where",
        "Modality = MR",
        "--disabled",
    )
    told = held("studies", "explain", STUDY[-12:])
    assert told.code == 0
    for said in (
        "✓ skeleton → threshold_bone",
        "runs on 1 of 1 series",
        "○ off →",
        "✗ Modality = MR",
    ):
        assert said in told.out
    assert "\x1b" not in told.out
    explained = held("studies", "explain", STUDY, "--json").json
    assert [(one["rule"], one["code"], one["enabled"]) for one in explained["rules"]] == [
        ("skeleton", "runs", True),
        ("off", "unfit", False),
    ]
    assert explained["rules"][0]["workitems"] == [WORKITEM]
    assert explained["rules"][1]["to_change"][0] == "`osteonode rules enable off`"
    for answer in (told.out, json.dumps(explained)):
        assert "Doe^Jane" not in answer
        assert "P4711" not in answer
    (one,) = held("studies", "explain", STUDY, "--rule", "off", "--json").json["rules"]
    assert one["rule"] == "off"
    assert held("studies", "explain", "9.9.9").code == 1
    assert held("studies", "explain", STUDY, "--rule", "never").code == 1


def test_studies(held: Run) -> None:
    (listed,) = held("studies", "list", "--json").json
    assert listed["study_instance_uid"] == STUDY
    assert listed["instance_count"] == 2
    assert listed["news"] is False
    shown = held("studies", "show", STUDY[-9:])
    assert shown.code == 0
    for expected in (
        STUDY,
        "Modality = CT",
        "seen: CT",
        "Every clause holds",
        "COMPLETED",
        "PENDING",
        "study-evaluated",
    ):
        assert expected in shown.out
    assert "\x1b" not in shown.out
    assert "Bone [bold]" in shown.out
    whole = held("studies", "show", STUDY, "--json")
    assert whole.json["decisions"][0]["clauses"][0]["seen"] == "CT"
    for answer in (shown, whole, held("studies", "list"), held("studies", "list", "--json")):
        assert "Doe" not in answer.out
        assert "P4711" not in answer.out
    assert held("studies", "list", "--since", "1d", "--json").json
    assert not held("studies", "list", "--since", "2999-01-01", "--json").json
    assert held("studies", "list", "--since", "soon").code == 2
    assert held("studies", "show", "1.2.3").code == 1


def test_a_study_is_evaluated_again(held: Run, index: Index) -> None:
    answer = held("studies", "evaluate", STUDY[-8:])
    assert answer.code == 0
    assert studies.get(index, STUDY).waits_until is not None
    assert held("studies", "evaluate", "9.9.9").code == 1


def test_a_study_is_held_and_released(held: Run, index: Index) -> None:
    answer = held("studies", "hold", STUDY[-8:], "--reason", "wrong [b]protocol")
    assert answer.code == 0
    hold = studies.get(index, STUDY).held
    assert hold is not None
    assert hold.by.startswith("cli:")
    assert held("studies", "list", "--json").json[0]["state"] == "held"
    assert "held" in held("studies", "list").out
    shown = held("studies", "show", STUDY)
    assert "wrong [b]protocol" in shown.out
    assert "study-held  by cli:" in shown.out
    assert held("studies", "show", STUDY, "--json").json["held"]["reason"] == hold.reason
    assert "protocol" not in held("audit", "list", "--json").out
    assert "as soon as it is released" in held("studies", "evaluate", STUDY).out

    assert held("studies", "release", STUDY[-8:]).code == 0
    study = studies.get(index, STUDY)
    assert study.held is None
    assert study.forced_at == study.waits_until
    assert held("studies", "list", "--json").json[0]["state"] == "released"
    for command in ("hold", "release"):
        assert held("studies", command, "9.9.9").code == 1


def test_the_verdict_is_shown_with_its_reasons(held: Run, index: Index) -> None:
    again = utcnow() + timedelta(seconds=60)
    verdict = Verdict(
        whole=False,
        confidence=Confidence.CERTAIN,
        ready=False,
        reasons=(VerdictReason(code="slices-missing", sentence="2 of 10 places are empty."),),
        look_again_at=again,
    )
    study = studies.get(index, STUDY)
    wholeness.keep_look(index, study, verdict, pace_s=1.0, series=())
    shown = held("studies", "show", STUDY)
    assert "not yet; looked at again" in shown.out
    assert re.search(r"slices-missing +2 of 10 places are empty\.", shown.out)
    (listed,) = held("studies", "list", "--json").json
    assert listed["whole"] == "not yet"
    assert listed["verdict"]["reasons"][0]["code"] == "slices-missing"
    wholeness.keep_look(
        index, study, replace(verdict, ready=True, look_again_at=None), pace_s=1.0, series=()
    )
    assert "not whole (certain)" in held("studies", "show", STUDY).out


def test_workitems(held: Run, index: Index) -> None:
    assert WORKITEM[-6:] in held("workitems", "list").out
    assert held("workitems", "list", "--state", "canceled", "--json").json == []
    assert held("workitems", "list", "--state", "failed").code == 2
    shown = held("workitems", "show", WORKITEM[-9:])
    for expected in ("COMPLETED", "infer=1.5", "SEG", "cut-off: The segment", SERIES):
        assert expected in shown.out
    assert held("workitems", "show", WORKITEM, "--json").json["evidence"][0]["kind"] == "SEG"
    settled = held("workitems", "cancel", WORKITEM)
    assert settled.code == 1
    assert len(settled.err.splitlines()) == 1
    assert held("workitems", "retry", WORKITEM).code == 1
    assert held("workitems", "retry", "9.9.9").code == 1


def test_a_workitem_is_cancelled_and_retried(ready: Run, index: Index) -> None:
    instances.add_many(index, [_instance(1)])
    studies.record_evaluation(
        index, study_instance_uid=STUDY, revision=1, decisions=[], workitems=[_workitem()], now=utcnow()
    )  # fmt: skip
    assert ready("workitems", "cancel", WORKITEM).code == 0
    assert workitems.get(index, WORKITEM).state is WorkitemState.CANCELED
    assert ready("workitems", "list", "--state", "canceled", "--json").json[0]["reason_code"]
    assert ready("workitems", "retry", WORKITEM).code == 0
    assert workitems.get(index, WORKITEM).state is WorkitemState.SCHEDULED


def test_deliveries(held: Run, index: Index) -> None:
    (owed,) = held("deliveries", "list", "--study", STUDY, "--json").json
    assert owed["destination"] == "PACS"
    number = owed["delivery_id"]
    deliveries.settle(
        index,
        delivery_id=number,
        state=DeliveryState.FAILED,
        status=0xA900,
        message="Data set does not match SOP Class",
        next_attempt_at=None,
        now=utcnow(),
    )
    failed = held("deliveries", "list", "--state", "failed")
    assert "0xA900" in failed.out
    assert held("deliveries", "retry", "--to", "PACS").code == 0
    assert deliveries.get(index, number).state is DeliveryState.PENDING
    assert deliveries.get(index, number).next_attempt_at <= utcnow() + timedelta(seconds=1)
    assert held("deliveries", "retry", number).code == 0
    assert held("deliveries", "retry", 9999).code == 1
    assert held("deliveries", "retry", "--to", "NONE").code == 1
    assert held("deliveries", "retry").code == 2
    assert held("deliveries", "retry", number, "--to", "PACS").code == 2


def test_measurements(held: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(held("measurements", "list", "--csv").out)))
    assert [(row["concept_meaning"], row["value"], row["unit"]) for row in rows] == [
        ("Volume", "12.5", "mL"),
        ("Attenuation", "412.0", "[hnsf'U]"),
    ]
    (volume,) = held("measurements", "list", "--concept", "Volume", "--json").json
    assert volume["study_instance_uid"] == STUDY
    assert held("measurements", "list", "--pipeline", "other", "--json").json == []
    assert held("measurements", "list", "--until", "2000-01-01", "--csv").out.startswith(
        "measured_at,"
    )
    assert "12.5" in held("measurements", "list", "--study", STUDY[-9:]).out


def test_audit(held: Run) -> None:
    kinds = [event["kind"] for event in held("audit", "list", "--json").json]
    assert kinds[:2] == ["destination-added", "rule-added"]
    assert {"study-evaluated", "workitem-completed"} <= set(kinds)
    (added,) = held("audit", "list", "--kind", "rule-added", "--json").json
    assert re.fullmatch(r"cli:\S+", added["actor"])
    by = held("audit", "list", "--actor", added["actor"], "--since", "1h", "--csv").out
    assert {row["kind"] for row in csv.DictReader(io.StringIO(by))} == {
        "destination-added",
        "rule-added",
    }
    about = held("audit", "list", "--study", STUDY, "--json").json
    assert {event["study_instance_uid"] for event in about} == {STUDY}
    assert held("audit", "list", "--until", "2000-01-01").out == "No such event.\n"
    assert "rule-added" in held("audit", "list").out


# -- peers ----------------------------------------------------------------------------------------


def test_send(run: Run, pacs: Pacs, tmp_path: Path) -> None:
    files = save_all(make_series(), tmp_path / "series")
    (tmp_path / "series" / "notes.txt").write_text("not DICOM")
    to = ("--to", f"127.0.0.1:{pacs.port}", "--called", "PACS")
    sent = run("send", tmp_path / "series", *to, "--calling", "CT1")
    assert sent.code == 0
    assert f"{len(files)} sent, 0 not taken, 1 skipped" in sent.out
    assert "notes.txt" in sent.err
    assert len(pacs.wait_for(len(files))) == len(files)
    assert {file.calling_ae for file in pacs.files} == {"CT1"}
    pacs.status = 0xA900
    refused = run("send", files[0], *to)
    assert refused.code == 5
    assert "0xA900" in refused.err
    assert run("send", tmp_path / "series" / "notes.txt", *to).code == 1
    assert run("send", tmp_path / "nothing", *to).code == 2
    assert run("send", files[0], "--to", "127.0.0.1", "--called", "PACS").code == 2
    wrong = run("send", files[0], "--to", f"127.0.0.1:{pacs.port}", "--called", "OTHER")
    assert wrong.code == 5
    pacs.stop()
    assert run("send", files[0], *to).code == 5


def test_echo(run: Run, pacs: Pacs) -> None:
    peer = ("--to", f"127.0.0.1:{pacs.port}")
    assert "answers" in run("echo", *peer, "--called", "PACS").out
    assert run("echo", *peer, "--called", "OTHER").code == 5
    nobody = run("echo")
    assert nobody.code == 5
    assert nobody.err.startswith("osteonode: This node (OSTEONODE at 127.0.0.1")
    assert run("echo", "--to", "localhost").code == 2


# -- pipelines ------------------------------------------------------------------------------------


def test_pipelines_list_and_show(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {one["name"]: one for one in run("pipelines", "list", "--json").json}
    assert listed["threshold_bone"]["takes"] == ["CT"]
    shown = run("pipelines", "show", "threshold_bone")
    assert "272673000" in shown.out
    assert run("pipelines", "show", "threshold_bone", "--json").json["version"] == "1.0.0"
    settings = '[{"where": ["KVP = 120"], "parameters": {"threshold_hu": 250.0}}]'
    monkeypatch.setenv("OSTEONODE_PIPELINES__SETTINGS", f'{{"threshold_bone": {settings}}}')
    with_settings = run("pipelines", "show", "threshold_bone")
    assert "KVP = 120" in with_settings.out
    assert "250" in with_settings.out
    (setting,) = run("pipelines", "show", "threshold_bone", "--json").json["settings"]
    assert setting["parameters"] == {"threshold_hu": 250.0}
    monkeypatch.delenv("OSTEONODE_PIPELINES__SETTINGS")
    unknown = run("pipelines", "show", "none")
    assert unknown.code == 6
    assert "threshold_bone" in unknown.err
    altered = run("pipelines", "show", "altered")
    assert altered.code == 6
    assert "SHA-256" in altered.err


def test_pipelines_run_on_a_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    save_all(make_series(), folder)
    (folder / "notes.txt").write_text("not DICOM")
    command = (
        "pipelines",
        "run",
        folder,
        "--pipeline",
        "threshold_bone",
        "--out",
        tmp_path / "out",
    )
    done = run(*command, "--json")
    assert done.code == 0, done.err
    names = [Path(file).name for file in done.json["files"]]
    assert names == ["seg.dcm", "sr.dcm", "overlay.png", "measurements.csv"]
    seg = dcmread(tmp_path / "out" / "seg.dcm")
    assert seg.Modality == "SEG"
    assert (tmp_path / "out" / "overlay.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "measurements.csv").read_text())))
    assert len(rows) == len(done.json["measurements"]) > 0
    assert "segment" in run(*command).out
    # The same input makes the same object.
    assert dcmread(tmp_path / "out" / "seg.dcm").SOPInstanceUID == seg.SOPInstanceUID


def test_pipelines_run_puts_the_inputs_of_a_study_together(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert write_demo_study(find_pipelines([PIPELINES]).get("hot_bone"), folder)
    command = ("pipelines", "run", folder, "--pipeline", "hot_bone", "--out")
    both = run(*command, tmp_path / "both", "--json")
    assert both.code == 0, both.err
    assert both.json["notices"] == []
    for path in folder.iterdir():
        if dcmread(path).Modality == "CT":
            path.unlink()
    alone = run(*command, tmp_path / "alone")
    assert alone.code == 0, alone.err
    assert "input-absent: Analysed without the input 'ct'" in alone.out


def test_pipelines_check(run: Run, tmp_path: Path) -> None:
    checked = run("pipelines", "check", PIPELINES / "hot_bone")
    assert checked.code == 0, checked.err
    for said in (
        "pet: PT, 2 instances or more, optional; ct: CT",
        "in the frame of reference of pet",
        "load and run are there",
        "phantoms.py has demo_study",
        "README.md is to say",
    ):
        assert said in checked.out
    other = shutil.copytree(PIPELINES / "hot_bone", tmp_path / "hot_bone")
    clash = run("pipelines", "check", other)
    assert (clash.code, "has the name 'hot_bone' already" in clash.err) == (6, True)
    new = tmp_path / "new_bone"
    other.rename(new)
    manifest = new / "pipeline.toml"
    manifest.write_text(manifest.read_text().replace('name = "hot_bone"', 'name = "new_bone"'))
    assert f'folders = ["{tmp_path}"]' in run("pipelines", "check", new).out
    (new / "pipeline.py").write_text("def load(context):\n    pass\n")
    broken = run("pipelines", "check", new)
    assert (broken.code, "needs a function run" in broken.err) == (6, True)


def test_pipelines_run_refuses_what_it_cannot_take(run: Run, tmp_path: Path) -> None:
    empty, two = tmp_path / "empty", tmp_path / "two"
    empty.mkdir()
    save_all(make_series(series=1) + make_series(series=2), two)
    save_all([make_instance()], tmp_path / "one")
    out = ("--out", tmp_path / "out")
    for folder, said in ((empty, "none fits"), (two, "2 fit"), (tmp_path / "one", "none fits")):
        answer = run("pipelines", "run", folder, "--pipeline", "threshold_bone", *out)
        assert answer.code == 6
        assert said in answer.err
    crashed = run("pipelines", "run", tmp_path / "one", "--pipeline", "none", *out)
    assert crashed.code == 6
    assert run("pipelines", "run", tmp_path / "nothing", "--pipeline", "x", *out).code == 2
    assert not (tmp_path / "out").exists()


def test_pipelines_run_says_what_it_cannot_write_to(run: Run, tmp_path: Path) -> None:
    save_all(make_series(), tmp_path / "series")
    (tmp_path / "file").write_text("")
    command = ("pipelines", "run", tmp_path / "series", "--pipeline", "threshold_bone", "--out")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        answer = run(*command, out)
        assert answer.code == 2
        # The box around a usage error wraps a long path wherever it likes.
        assert str(out) in re.sub(r"[\s│]", "", answer.err)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")
def test_an_error_that_quotes_a_header_cannot_command_the_terminal(
    run: Run, tmp_path: Path
) -> None:
    ds = make_instance()
    ds.Modality = "C\x1b[2J"
    save_all([ds], tmp_path / "series")
    command = ("pipelines", "run", tmp_path / "series", "--pipeline", "threshold_bone")
    answer = run(*command, "--out", tmp_path / "out")
    assert answer.code == 6
    assert "[2J" in answer.err
    assert "\x1b" not in answer.err


def test_numbers_that_no_database_takes_are_wrong_usage(ready: Run) -> None:
    huge = str(10**20)
    assert ready("audit", "list", "--limit", huge).code == 2
    assert ready("deliveries", "retry", huge).code == 2


def test_a_pipeline_without_training_says_so(run: Run, tmp_path: Path) -> None:
    for command in ("train", "evaluate"):
        answer = run("pipelines", command, "threshold_bone", "--out", tmp_path / "out")
        assert answer.code == 6
        assert "threshold_bone cannot be trained" in answer.err


@pytest.mark.slow
def test_training_and_evaluating(run: Run, tmp_path: Path) -> None:
    """A few steps: the way from options to report, not the quality of what comes out."""
    few = ("--phantoms", 4, "--batch-size", 2, "--workers", 0, "--device", "cpu")
    trained = run("pipelines", "train", "ct_skeleton", "--out", tmp_path / "train", *few, "--json")
    assert trained.code == 0, trained.err
    (one,) = trained.json["runs"]
    assert one["steps"] > 0
    weights = Path(one["weights"])
    assert weights.is_file()
    command = ("pipelines", "evaluate", "ct_skeleton", "--out", tmp_path / "evaluate")
    figures = run(*command, "--phantoms", 1, "--weights", weights, "--device", "cpu")
    assert figures.code == 0, figures.err
    assert "Dice" in figures.out
    assert json.loads((tmp_path / "evaluate" / "report.json").read_text())["studies"] == 1
