"""Settings by scanner: which parameters a series gets, and that other parameters make another result."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from volumes import write_series

from node.cli.local import run_on_folder
from node.config import Config
from node.errors import ConfigError
from node.sites import check_settings, site_parameters
from pipelines.evidence.profile import GENERIC
from pipelines.registry import find_pipelines
from pipelines.training.phantoms.dicom import SeriesOptions
from storage.model import Series, utcnow

PIPELINES = Path(__file__).parents[1] / "pipelines"
REGISTRY = find_pipelines([PIPELINES])


run = partial(run_on_folder, device="cpu", profiles=GENERIC)


def series(kvp: str = "120") -> Series:
    now = utcnow()
    return Series(
        series_instance_uid="1.2.3",
        study_instance_uid="1.2",
        modality="CT",
        instance_count=60,
        first_received_at=now,
        last_received_at=now,
        header={"Modality": ("CT",), "KVP": (kvp,)},
        facts={"calling_ae": "CT1", "instances": 60},
    )


def config(*entries: dict[str, object]) -> Config:
    return Config.model_validate({"pipelines": {"settings": {"threshold_bone": entries}}})


def entry(threshold: float, *where: str) -> dict[str, object]:
    return {"where": where, "parameters": {"threshold_hu": threshold}}


def test_the_first_entry_whose_clauses_all_hold_counts() -> None:
    settings = config(
        entry(1.0, "KVP = 120", "calling_ae = CT2"),
        entry(2.0, "KVP = 120", "calling_ae = CT1"),
        entry(3.0),
    ).pipelines.settings
    assert site_parameters(settings, "threshold_bone", [series()]) == {"threshold_hu": 2.0}
    other = series(kvp="100")
    assert site_parameters(settings, "threshold_bone", [other]) == {"threshold_hu": 3.0}
    assert site_parameters(settings, "another", [series()]) == {}
    only = config(entry(1.0, "KVP = 80")).pipelines.settings
    assert site_parameters(only, "threshold_bone", [series()]) == {}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"none": [entry(1.0)]}, r"settings\.none: .*threshold_bone"),
        ({"threshold_bone": [entry(1.0), entry(1.0, "x = 1")]}, r"threshold_bone\.1\.where: .*'x'"),
        ({"threshold_bone": [{"parameters": {"x": 1}}]}, r"threshold_bone\.0\.parameters: .*'x'"),
        ({"threshold_bone": [{"parameters": {"threshold_hu": "a"}}]}, "takes a float"),
    ],
)
def test_what_no_run_could_follow_is_refused_by_key(
    settings: dict[str, list[object]], told: str
) -> None:
    read = Config.model_validate({"pipelines": {"settings": settings}}).pipelines.settings
    with pytest.raises(ConfigError, match=told):
        check_settings(read, REGISTRY)


def test_a_folder_is_run_with_the_settings_of_its_scanner(tmp_path: Path) -> None:
    write_series(tmp_path)
    made = REGISTRY.get("threshold_bone")
    uids = {}
    for name, settings, given in (
        ("default", config(), {}),
        ("of the scanner", config(entry(500.0, "Manufacturer ~ phantom", "instances = 11")), {}),
        ("of another scanner", config(entry(500.0, "Manufacturer = X")), {}),
        ("by hand", config(entry(500.0)), {"threshold_hu": 200.0}),
    ):
        performed = run(settings, made, tmp_path, given)
        seg = next(item.ds for item in performed.evidence if item.kind == "SEG")
        uids[name] = str(seg.SOPInstanceUID)
    assert uids["of the scanner"] != uids["default"]
    assert uids["of another scanner"] == uids["by hand"] == uids["default"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_without_a_group_length_are_run_with_their_settings(
    tmp_path: Path, syntax: UID
) -> None:
    # (0002,0000) is required (PS3.10 7.1), and some exporters leave it out all the same; pydicom reads such files.
    for path in write_series(tmp_path, options=SeriesOptions(transfer_syntax=syntax)):
        encoded = path.read_bytes()
        path.write_bytes(encoded[:132] + encoded[144:])
    made, settings = REGISTRY.get("threshold_bone"), config(entry(500.0, "Manufacturer ~ phantom"))
    performed = run(settings, made, tmp_path, {})
    by_hand = run(config(), made, tmp_path, {"threshold_hu": 500.0})
    assert [e.ds.SOPInstanceUID for e in performed.evidence] == [
        e.ds.SOPInstanceUID for e in by_hand.evidence
    ]


def test_each_input_may_have_settings_and_the_first_counts_most() -> None:
    made = {
        "hot_bone": [
            {"where": ["KVP = 120"], "parameters": {"uptake": 1.0, "threshold_hu": 1.0}},
            {"where": ["KVP = 100"], "parameters": {"uptake": 2.0}},
        ]
    }
    settings = Config.model_validate({"pipelines": {"settings": made}}).pipelines.settings
    inputs = [series(kvp="100"), series(kvp="120")]
    assert site_parameters(settings, "hot_bone", inputs) == {"uptake": 2.0, "threshold_hu": 1.0}
