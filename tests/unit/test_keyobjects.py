"""Key Object Selection: the slices on which segments are largest, and what else was made."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import documents
import numpy as np
import volumes
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from pipelines.evidence.create import create_evidence
from pipelines.evidence.header import series_attributes
from pipelines.evidence.keyobjects import create_key_objects
from pipelines.evidence.keyslices import key_slices
from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest


def _make(request: EvidenceRequest, *evidence: Dataset) -> Dataset:
    ds = create_key_objects(request, evidence)
    assert ds is not None
    return documents.received(ds)


def _references(ds: Dataset) -> list[Dataset]:
    return [
        item.ReferencedSOPSequence[0]
        for item in ds.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]


def _evidence(ds: Dataset) -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def test_the_same_request_makes_the_same_bytes(tmp_path: Path) -> None:
    request = volumes.make_request(documents.named_source(tmp_path))
    assert encode(_make(request)) == encode(_make(request))


def test_the_slices_of_largest_area_are_selected(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    request = volumes.make_request(source)
    ds = _make(request)
    # Bone 1 is larger on slice 1 than on the others; Bone 2 is as large on all of its own.
    assert key_slices(request.result) == {1: 1, 2: 6}
    expected = [str(source.datasets[index].SOPInstanceUID) for index in (1, 6)]
    assert [str(item.ReferencedSOPInstanceUID) for item in _references(ds)] == expected
    assert _evidence(ds) == set(expected)
    assert ds.SOPClassUID == KeyObjectSelectionDocumentStorage
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.Modality == "KO"
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    assert ds.PatientID == documents.PATIENT["PatientID"]
    assert ds.PatientName == documents.PATIENT["PatientName"]
    assert ds.ContributingEquipmentSequence[1].DeviceUID == request.device_uid
    (description,) = [item.TextValue for item in ds.ContentSequence if item.ValueType == "TEXT"
                      and item.ConceptNameCodeSequence[0].CodeValue == "113012"]  # fmt: skip
    for text in ("image 2: Bone 1", "image 7: Bone 2", "not for diagnosis"):
        assert text in description
    assert "secret" not in description.lower()


def test_a_slice_that_several_segments_share_is_selected_once(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    request = volumes.make_request(source)
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[4, :5], labels[4, 10:15] = 1, 2
    result = dataclasses.replace(request.result, label_map=source.volume.with_array(labels))
    (item,) = _references(_make(dataclasses.replace(request, result=result)))
    assert item.ReferencedSOPInstanceUID == source.datasets[4].SOPInstanceUID


def test_other_evidence_is_selected_after_the_slices(tmp_path: Path) -> None:
    request = volumes.make_request(documents.named_source(tmp_path))
    seg, sr = (item.ds for item in create_evidence(request))
    ds = _make(request, seg, sr)
    last = [str(item.ReferencedSOPInstanceUID) for item in _references(ds)][-2:]
    assert last == [seg.SOPInstanceUID, sr.SOPInstanceUID]
    assert set(last) < _evidence(ds)


def test_frames_of_a_multi_frame_image_are_selected(tmp_path: Path) -> None:
    source = documents.nm_source(tmp_path)
    request = volumes.make_request(source)
    (item,) = _references(_make(request))
    assert item.ReferencedSOPInstanceUID == source.datasets[0].SOPInstanceUID
    frames = sorted(source.frame_numbers[index] for index in key_slices(request.result).values())
    assert list(item.ReferencedFrameNumber) == frames


def test_nothing_found_makes_none(tmp_path: Path) -> None:
    assert create_key_objects(documents.nothing_found(documents.named_source(tmp_path))) is None


def test_kinds_of_a_run_have_neighbouring_numbers_of_their_own(tmp_path: Path) -> None:
    """In a viewer's list the series of a run stand together, each with a number that stays."""
    request = volumes.make_request(documents.named_source(tmp_path))
    kinds = ("SEG", "SR", "SC", "PDF", "RTSTRUCT", "KO")
    numbers = [series_attributes(request, kind)["series_number"] for kind in kinds]
    assert numbers == list(range(numbers[0], numbers[0] + 6))
    assert numbers[0] >= 9000
    # Forms of a kind share its number: nobody gets two of them.
    assert series_attributes(request, "SEG/labelmap/rle")["series_number"] == numbers[0]
