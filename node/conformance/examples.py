"""Small objects made as the node makes them, one thing changed at a time.

What the statement says of the objects' attributes is observed on these: an attribute that another source changes
comes from the source, one that is missing with a poor source is not always present. The patient is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
from highdicom import Volume
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import MRImageStorage

from pipelines.evidence.codes import MILLILITER
from pipelines.evidence.create import create_evidence
from pipelines.evidence.profile import Compression, Profile, SegmentationType
from pipelines.evidence.request import EvidenceObject, EvidenceRequest, Installation
from pipelines.manifest import CodeSpec, InputSpec, Manifest, SegmentSpec, WeightsSpec
from pipelines.result import (
    AnalysisResult,
    Measurement,
    Notice,
    QualitativeEvaluation,
    Segment,
    SourceSeries,
)
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.uids import derive_workitem_uid


class Origin(StrEnum):
    """Where a value comes from: what must change for it to change."""

    SOURCE = "source"
    CONFIGURATION = "configuration"
    PIPELINE = "pipeline"
    RESULT = "result"
    TIME = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The objects of one request."""

    #: Whether source, manifest and result say as little as they may.
    is_poor: bool
    #: What alone differs from the first example, or the first poor one; None of these two.
    varied: Origin | None
    source: Dataset
    objects: tuple[EvidenceObject, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """Which of two values each origin has, `A` or `B`."""

    letters: Mapping[Origin, str] = field(default_factory=dict)
    poor: bool = False

    def is_other(self, origin: Origin) -> bool:
        return self.letters.get(origin) == "B"


#: Patient, study, series and equipment of a source are filled with whatever their modules have (PS3.3 A.3).
_FILLED = ("Patient", "Study", "Series", "Equipment")
_BY_VR = {
    **{"AS": ("030Y", "031Y"), "DA": ("20260101", "20260102"), "TM": ("0101", "0202")},
    **{"DT": ("20260101", "20260102"), "DS": ("1.5", "2.5"), "IS": ("1", "2")},
    **{"UI": ("2.25.1", "2.25.2"), "UR": ("urn:a", "urn:b")},
    **{"US": (1, 2), "SS": (1, 2), "UL": (1, 2), "SL": (1, 2), "FD": (1.5, 2.5), "FL": (1.5, 2.5)},
}
_BY_KEYWORD = {"PatientSex": ("M", "F"), "TimezoneOffsetFromUTC": ("+0100", "+0200")}
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_TYPE_3 = (
    *("StudyDescription", "SeriesDescription", "BodyPartExamined", "PatientPosition"),
    *("Manufacturer", "ManufacturerModelName", "SeriesDate", "SeriesTime", "SpecificCharacterSet"),
    *("LossyImageCompression", "TimezoneOffsetFromUTC"),
)


#: All kinds of objects, in all forms: a destination may get any of them, by a profile that a hospital writes.
FORMS = {
    "all": Profile(
        contours=True, secondary_capture=True, pdf=True, rtstruct=True, key_objects=True
    ),
    **{
        f"{kind}/{compression}": Profile(segmentation=kind, compression=compression, report=False)
        for kind, compression in (
            (SegmentationType.BINARY, Compression.RLE),
            (SegmentationType.LABELMAP, Compression.NATIVE),
            (SegmentationType.LABELMAP, Compression.RLE),
            (SegmentationType.LABELMAP, Compression.JPEG_LS),
        )
    },
}


@cache
def make_examples() -> tuple[Example, ...]:
    """A rich example, and one for each origin in which that alone differs; the same of poor ones.

    They depend on nothing outside, and are made once in a process: that takes seconds. Nobody changes them.
    """
    return tuple(
        _example(varied, _Recipe(letters={varied: "B"} if varied else {}, poor=poor))
        for poor in (False, True)
        for varied in (None, *Origin)
    )


def _example(varied: Origin | None, recipe: _Recipe) -> Example:
    source = _source(recipe)
    manifest, installation = _manifest(recipe), _installation(recipe)
    result = _result(recipe, source, manifest)
    parameters = dict(manifest.parameters)
    request = EvidenceRequest(
        workitem_uid=derive_workitem_uid(
            installation.uid_root,
            pipeline=manifest.name,
            version=manifest.version,
            parameters=parameters,
            sop_instance_uids=[str(ds.SOPInstanceUID) for ds in source.datasets],
        ),
        manifest=manifest,
        source=source,
        result=result,
        installation=installation,
        started_at=datetime(2026, 3, 4, 5, tzinfo=UTC)
        + timedelta(days=1, hours=1) * recipe.is_other(Origin.TIME),
        parameters=parameters,
    )
    return Example(
        is_poor=recipe.poor,
        varied=varied,
        source=source.datasets[0],
        objects=create_evidence(request, FORMS),
    )


# -- what goes in -------------------------------------------------------------------------------


def _source(recipe: _Recipe) -> SourceSeries:
    other = recipe.is_other(Origin.SOURCE)
    affine = np.eye(4)
    # Columns: LPS of a step from slice to slice, row to row, column to column.
    oblique, axial = (
        np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]),
        np.fliplr(np.diag([0.8, 0.8, 2])),
    )
    affine[:3, :3] = oblique if other else axial
    affine[:3, 3] = (1.0, 2.0, 3.0) if other else (0.0, 0.0, 0.0)
    array = np.zeros((4, 12, 10) if other else (3, 10, 8), np.int16)
    volume = Volume(array=array, affine=affine, coordinate_system="PATIENT")
    datasets = ct_series(volume, seed=2 if other else 1, options=SeriesOptions())
    for ds in datasets:
        del ds.PixelData
        if other:
            ds.SOPClassUID, ds.Modality, ds.SpecificCharacterSet = (
                MRImageStorage,
                "MR",
                "ISO_IR 100",
            )
        ds.LossyImageCompression = "01" if other else "00"
        ds.TimezoneOffsetFromUTC = "+0200" if other else "+0100"
        if recipe.poor:
            _empty(ds)
            if other:
                # Without a body part Laterality (0020,0060) is there, empty; with one it need not be.
                ds.BodyPartExamined = "SPINE"
        else:
            _fill(ds, 1 if other else 0)
    return SourceSeries(
        volume=Volume(
            array=array,
            affine=affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=datasets[0].FrameOfReferenceUID,
        ),
        datasets=tuple(datasets),
    )


def _empty(ds: Dataset) -> None:
    for keyword in _TYPE_2:
        setattr(ds, keyword, None)
    for keyword in _TYPE_3:
        if keyword in ds:
            delattr(ds, keyword)


def _fill(ds: Dataset, which: int) -> None:
    """Give the source everything that its modules have, sequences to one level."""
    attributes = get_module_attribute_map()
    kept = {"StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"}
    for module in get_iod_module_map()["ct-image"]:
        if module["ie"] not in _FILLED:
            continue
        for attribute in attributes[module["key"]]:
            keyword, path = str(attribute["keyword"]), list(attribute["path"])
            if keyword in kept or len(path) > 1 or dictionary_VR(keyword) == "SQ":
                continue
            parent = ds
            if path:
                if path[0] not in ds:
                    setattr(ds, path[0], [Dataset()])
                parent = ds[path[0]].value[0]
            setattr(parent, keyword, _value(keyword, which))


def _value(keyword: str, which: int) -> Any:
    pair = _BY_KEYWORD.get(keyword) or _BY_VR.get(dictionary_VR(keyword)) or ("A", "B")
    return pair[which]


def _code(value: str, meaning: str, scheme: str = "SCT") -> CodeSpec:
    return CodeSpec(value=value, scheme=scheme, meaning=meaning)


def _manifest(recipe: _Recipe) -> Manifest:
    other = recipe.is_other(Origin.PIPELINE)
    rich = not recipe.poor
    femur, tibia = _code("71341001", "Femur"), _code("12611008", "Tibia")
    bone, joint = _code("272673000", "Bone"), _code("39352004", "Joint")
    left, right = _code("7771000", "Left"), _code("24028007", "Right")
    segments = tuple(
        SegmentSpec(
            number=number,
            label=f"Segment {'B' if other else 'A'}{number}",
            category=_code("49755003", "Morphologically Abnormal Structure")
            if other
            else _code("91723000", "Anatomical Structure"),
            type=tibia if other else femur,
            site=(joint if other else bone) if rich else None,
            laterality=(right if other else left) if rich else None,
            rgb=(10, 20, 30) if other else (200, 100, 50),
        )
        for number in (1, 2)
    )
    return Manifest(
        name="example_b" if other else "example_a",
        version="2.0.0" if other else "1.0.0",
        title="Example B" if other else "Example A",
        manufacturer="B" if other else "A",
        family="classical" if other else "artificial_intelligence",
        procedure=_code("113091000", "Magnetic resonance imaging")
        if other
        else _code("77477000", "Computed Tomography"),
        inputs={"ct": InputSpec(modality=("CT",))},
        segments=segments,
        parameters={("b" if other else "a"): 1.0} if rich else {},
        weights=WeightsSpec(file="weights.safetensors", sha256=("b" if other else "a") * 64),
    )


def _installation(recipe: _Recipe) -> Installation:
    other = recipe.is_other(Origin.CONFIGURATION)
    return Installation(
        institution="" if recipe.poor else "Hospital B" if other else "Hospital A",
        serial_number="2" if other else "1",
        uid_root="1.2.3" if other else "2.25",
        software_version="1",
    )


def _result(recipe: _Recipe, source: SourceSeries, manifest: Manifest) -> AnalysisResult:
    other = recipe.is_other(Origin.RESULT)
    labels = np.zeros(source.volume.array.shape, np.uint8)
    labels[0 if other else 1 : 2, 2:6, 2:4] = 1
    if not recipe.poor:
        labels[2, 3:5, 4 : 7 if other else 6] = 2
    return AnalysisResult(
        role="ct",
        label_map=source.volume.with_array(labels),
        segments=tuple(
            Segment(number=spec.number, spec=spec, label=spec.label) for spec in manifest.segments
        ),
        measurements=tuple(_measurements(other)) if not recipe.poor else (),
        evaluations=_evaluations(other) if not recipe.poor else (),
        notices=(Notice(code="cut", message="B" if other else "A"),) if not recipe.poor else (),
    )


def _measurements(other: bool) -> Iterator[Measurement]:
    for number in (1, 2, None):
        yield Measurement(
            name=codes.SCT.Area if other else codes.SCT.Volume,
            value=2.0 if other else 1.0,
            unit=codes.UCUM.SquareMillimeter if other else MILLILITER,
            derivation=codes.SCT.Maximum if other else codes.SCT.Mean,
            site=codes.SCT.Neck if other else codes.SCT.Trunk,
            segment_number=number,
        )


def _evaluations(other: bool) -> tuple[QualitativeEvaluation, ...]:
    name = Code("X", "99OTHER" if other else "99EXAMPLE", "B" if other else "A")
    value = codes.SCT.Benign if other else codes.SCT.Malignant
    return tuple(
        QualitativeEvaluation(name=name, value=value, segment_number=number) for number in (1, None)
    )
