"""The conformance statement says what the code does: held against the code, and against objects it never saw."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import volumes
from pydicom import Dataset
from pydicom.datadict import dictionary_description

from node import dimse, header, receiving
from node.cli import main
from node.config import Config
from node.conformance.examples import FORMS
from node.conformance.iods import Iod, Presence
from node.conformance.markdown import write_markdown
from node.conformance.network import read_network
from node.conformance.statement import Statement, read_statement
from node.scu import Outcome, classify, describe
from pipelines.evidence.create import create_evidence
from pipelines.registry import find_pipelines
from pipelines.series import read_series

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
PRIVATE = "1.2.840.113619.4.30"


@pytest.fixture(scope="module")
def statement() -> Statement:
    return read_statement(Config(), find_pipelines())


# -- the network --------------------------------------------------------------------------------


def test_every_status_that_the_listener_has_is_told(statement: Statement) -> None:
    """A new status constant in the code needs a row."""
    sources = [Path(module.__file__ or "") for module in (header, receiving, dimse)]
    constants = {
        int(value, 16)
        for source in sources
        for value in re.findall(r"^[A-Z_]+ = (0x[0-9A-F]{4})$", source.read_text("utf-8"), re.M)
    }
    assert len(constants) == 9
    assert {status.first for status in statement.network.store_scp} == constants


def test_ranges_of_statuses_are_those_of_the_standard(statement: Statement) -> None:
    """PS3.4 Table B.2-1 and PS3.7 Annex C."""
    told = {(s.first, s.last): s.behavior for s in statement.network.store_scu}
    sent, again = "the delivery is SENT", "tried again"
    assert told == {
        (0x0000, 0x0000): sent,
        (0x0001, 0x0001): sent,
        (0x0107, 0x0107): sent,
        (0x0110, 0x0110): again,
        (0x0111, 0x0111): sent,
        (0x0116, 0x0116): sent,
        (0x0213, 0x0213): again,
        (0xA700, 0xA7FF): again,
        (0xB000, 0xBFFF): sent,
    }
    assert classify(0xA900) is classify(0xC000) is classify(0x0122) is Outcome.PERMANENT


@pytest.mark.parametrize("status", [0x0001, 0x0107, 0x0116, 0xB000, 0xB123])
def test_a_warning_is_called_one(status: int) -> None:
    assert "Warning" in describe(status)


def test_the_configuration_in_force_is_told() -> None:
    config = Config.model_validate(
        {
            "node": {"ae_title": "BONES", "port": 10400},
            "receive": {
                "calling_ae": ["CT01", "PACS"],
                "private_sop_classes": [PRIVATE],
                "max_associations": 3,
            },
        }
    )
    network = read_network(config, [])
    assert (network.ae_title, network.port) == ("BONES", 10400)
    assert [item.name for item in network.sop_classes if item.uid == PRIVATE] == [PRIVATE]
    assert dict(network.rejections) == {
        "calling AE title not recognized (source 1, reason 3)": "the calling AE title is none of CT01, PACS",
        "called AE title not recognized (source 1, reason 7)": "the called AE title is not BONES",
        "too many associations a second (source 3, reason 1)": "an address asks more than 50 times a second, on "
        "average over 10 s",
        "too many associations (source 3, reason 2)": "3 associations are open, or the disk has "
        "less than 2000 MB free",
    }


def test_a_listener_that_checks_no_title_rejects_none() -> None:
    network = read_network(Config.model_validate({"receive": {"check_called_ae": False}}), [])
    assert dict(network.rejections)["called AE title not recognized (source 1, reason 7)"] == (
        "never, as configured"
    )


def test_every_sop_class_has_a_name(statement: Statement) -> None:
    """Also those that came after pydicom's dictionary."""
    assert not [item for item in statement.network.sop_classes if item.name == item.uid]


# -- the objects --------------------------------------------------------------------------------


def _told(iod: Iod) -> dict[tuple[str, ...], Presence]:
    return {element.path: element.presence for module in iod.modules for element in module.elements}


def _paths(
    ds: Dataset, told: dict[tuple[str, ...], Presence], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Every attribute of an object, sequences to where the statement follows them."""
    for element in ds:
        here = (*path, dictionary_description(element.tag))
        yield here
        if element.VR == "SQ" and any(one[:-1] == here for one in told):
            for item in element.value:
                yield from _paths(item, told, here)


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_an_object_of_another_study_is_as_told(
    statement: Statement, orientation: str, tmp_path: Path
) -> None:
    source = read_series(volumes.write_series(tmp_path, orientation=orientation))
    request = volumes.make_request(source)
    made = {(item.kind, item.ds.SOPClassUID): item.ds for item in create_evidence(request, FORMS)}
    assert {(iod.kind, iod.sop_class.uid) for iod in statement.iods} == set(made)
    for iod in statement.iods:
        told = _told(iod)
        ds = made[iod.kind, iod.sop_class.uid]
        has = set(_paths(ds, told))
        assert has <= set(told)
        assert has >= {
            path
            for path, presence in told.items()
            if presence is not Presence.ANAP and len(path) == 1
        }
        syntaxes = {one.uid for one in iod.transfer_syntaxes}
        assert ds.file_meta.TransferSyntaxUID in syntaxes


def test_values_come_from_where_it_is_told(statement: Statement) -> None:
    origins = {
        (iod.kind, *element.path): {str(origin) for origin in element.origins}
        for iod in statement.iods
        for module in iod.modules
        for element in module.elements
    }
    assert origins["SEG", "Patient ID"] == {"source"}
    assert origins["SEG", "Manufacturer"] == {"pipeline"}
    assert origins["SR", "Device Serial Number"] == {"configuration"}
    assert origins["SR", "SOP Instance UID"] == {"source", "configuration", "pipeline"}
    assert origins["SEG", "Number of Frames"] == {"result"}
    assert "time" in origins["SR", "Content Date"]
    assert origins["SEG", "Modality"] == set()


def test_no_private_attribute_is_made(statement: Statement) -> None:
    assert not any(iod.has_private_attributes for iod in statement.iods)


def test_every_object_made_is_proposed(statement: Statement) -> None:
    proposed = {
        (context.abstract_syntax.uid, syntax.uid)
        for context in statement.network.proposed
        for syntax in context.transfer_syntaxes
    }
    for iod in statement.iods:
        for syntax in iod.transfer_syntaxes:
            assert (iod.sop_class.uid, syntax.uid) in proposed


# -- codes and claims ---------------------------------------------------------------------------


def test_codes_of_every_manifest_are_told_with_their_users(statement: Statement) -> None:
    told = {(code.scheme, code.value): code.used_by for code in statement.codes}
    for name, manifest in find_pipelines().manifests.items():
        for segment in manifest.segments:
            for spec in (segment.category, segment.type, segment.site, segment.laterality):
                if spec is not None:
                    assert name in told[spec.scheme, spec.value]
    assert told["99OSTEONODE", "BMC"] == ("qct_femur",)
    # Codes of the examples' own patients, pipelines and results are nobody's.
    assert ("99EXAMPLE", "X") not in told
    assert ("SCT", "12611008") not in told


def test_a_hospital_s_own_pipeline_is_told() -> None:
    statement = read_statement(Config(), find_pipelines([PIPELINES]))
    assert "threshold_bone" in {pipeline.name for pipeline in statement.pipelines}
    assert "threshold_bone" in write_markdown(statement)


def test_no_actor_is_claimed_whose_transactions_are_not_there(statement: Statement) -> None:
    creator, performer = statement.actors
    content = {item.name: item.supported for item in creator.content}
    assert content["Regions"]
    assert content["Measurements"]
    assert content["Tracking Identifiers"]
    assert not content["Parametric Maps"]
    commitment = next(item for item in creator.transactions if item.reference == "RAD-10")
    assert commitment.supported
    assert not performer.supported


# -- the text -----------------------------------------------------------------------------------


def test_the_page_is_what_the_default_node_prints(statement: Statement) -> None:
    """`osteonode conformance --output docs/conformance.md`, without a configuration, brings it up to date."""
    assert PAGE.read_text(encoding="utf-8") == write_markdown(statement)


def test_no_setting_of_this_machine_is_in_the_text(statement: Statement) -> None:
    text = write_markdown(statement)
    assert str(Path.cwd()) not in text
    assert "[node] data" not in text


def test_tables_are_whole(statement: Statement) -> None:
    """Each row has as many cells as its heading: no value ends a cell."""
    columns = None
    for line in write_markdown(statement).splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        columns = columns or cells
        assert cells == columns, line


def test_command_writes_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = tmp_path / "config.toml"
    configuration.write_text('[node]\nae_title = "BONES"\n', encoding="utf-8")
    output = tmp_path / "statement.md"
    command = ("--config", str(configuration), "conformance")
    with pytest.raises(SystemExit) as done:
        main((*command, "--output", str(output)))
    assert done.value.code == 0
    assert "One application entity, BONES," in output.read_text(encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main((*command, "--json"))
    facts = json.loads(capsys.readouterr().out)
    assert facts["network"]["ae_title"] == "BONES"
    assert {iod["kind"] for iod in facts["iods"]} >= {"SEG", "SR"}


def test_a_file_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "missing" / "statement.md"
    with pytest.raises(SystemExit) as done:
        main(("conformance", "--output", str(output)))
    assert done.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
