"""Which objects a profile makes of a result, in which form, and that two profiles share what is the same."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import volumes
from pydicom import Dataset, dcmread
from pydicom.uid import JPEGLSLossless, RLELossless

from pipelines.evidence.create import create_evidence
from pipelines.evidence.profile import PROFILES, Compression, Profile, SegmentationType
from pipelines.evidence.request import EvidenceRequest
from pipelines.series import read_series

ALL = Profile(contours=True, secondary_capture=True, pdf=True, rtstruct=True, key_objects=True)


@pytest.fixture
def request_(tmp_path: Path) -> EvidenceRequest:
    return volumes.make_request(read_series(volumes.write_series(tmp_path)))


def _kinds(request: EvidenceRequest, **profiles: Profile) -> list[tuple[str, tuple[str, ...]]]:
    return [(item.kind, item.profiles) for item in create_evidence(request, profiles)]


def _read(request: EvidenceRequest, profile: Profile) -> dict[str, Dataset]:
    return {
        item.kind: dcmread(BytesIO(item.encoded))
        for item in create_evidence(request, {"it": profile})
    }


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("generic", {"SEG", "SR"}),
        ("ohif", {"SEG", "SR"}),
        ("slicer", {"SEG", "SR"}),
        ("legacy", {"SC", "PDF"}),
        ("radiotherapy", {"SEG", "SR", "RTSTRUCT"}),
    ],
)
def test_the_profiles_that_ship(request_: EvidenceRequest, name: str, kinds: set[str]) -> None:
    made = create_evidence(request_, {name: PROFILES[name]})
    assert {item.kind for item in made} == kinds
    assert {item.profiles for item in made} == {(name,)}


def test_what_two_profiles_want_is_made_once(request_: EvidenceRequest) -> None:
    packed = Profile(segmentation=SegmentationType.LABELMAP, compression=Compression.RLE)
    made = create_evidence(
        request_, {"one": Profile(), "two": Profile(key_objects=True), "packed": packed}
    )
    assert sorted((item.kind, item.profiles) for item in made) == [
        ("KO", ("two",)),
        ("SEG", ("one", "two")),
        ("SEG", ("packed",)),
        ("SR", ("one", "two")),
        ("SR", ("packed",)),
    ]
    # Each report refers to the SEG of its own form.
    uids = {item.profiles: str(item.ds.SOPInstanceUID) for item in made if item.kind == "SEG"}
    for report in (item for item in made if item.kind == "SR"):
        text = report.encoded.decode("latin-1")
        assert uids[report.profiles] in text
        assert not any(uid in text for names, uid in uids.items() if names != report.profiles)


def test_every_object_is_another_one_in_a_series_of_its_own(request_: EvidenceRequest) -> None:
    packed = Profile(segmentation=SegmentationType.LABELMAP, compression=Compression.JPEG_LS)
    made = create_evidence(request_, {"all": ALL, "generic": Profile(), "packed": packed})
    uids = [str(item.ds.SOPInstanceUID) for item in made]
    assert len(set(uids)) == len(uids)
    series = {str(item.ds.SeriesInstanceUID) for item in made if item.kind != "SC"}
    assert len(series) == sum(item.kind != "SC" for item in made)
    for name in ("all", "generic", "packed"):
        got = [item for item in made if name in item.profiles]
        pairs = {(item.ds.SeriesNumber, str(item.ds.SeriesInstanceUID)) for item in got}
        assert len({number for number, _ in pairs}) == len(pairs)


def test_the_same_request_makes_the_same_bytes_of_everything(request_: EvidenceRequest) -> None:
    first, again = (create_evidence(request_, {"all": ALL}) for _ in range(2))
    assert [item.encoded for item in first] == [item.encoded for item in again]


@pytest.mark.parametrize(
    ("compression", "syntax"),
    [(Compression.RLE, RLELossless), (Compression.JPEG_LS, JPEGLSLossless)],
)
def test_a_label_map_is_compressed_as_asked(
    request_: EvidenceRequest, compression: Compression, syntax: str
) -> None:
    profile = Profile(segmentation=SegmentationType.LABELMAP, compression=compression)
    seg = _read(request_, profile)["SEG"]
    assert seg.SegmentationType == "LABELMAP"
    assert seg.file_meta.TransferSyntaxUID == syntax


def test_of_nothing_there_are_pages_and_reports_only(request_: EvidenceRequest) -> None:
    empty = request_.result.label_map.with_array(np.zeros_like(request_.result.label_map.array))
    nothing = dataclasses.replace(
        request_, result=dataclasses.replace(request_.result, label_map=empty)
    )
    assert {kind for kind, _ in _kinds(nothing, all=ALL)} == {"SR", "SC", "PDF"}


def test_a_report_without_seg_says_what_was_found(request_: EvidenceRequest) -> None:
    report = _read(request_, Profile(segmentation=SegmentationType.NONE))["SR"]
    assert "No voxel was segmented" not in str(report)
