"""Small series in every orientation, and results on them: what the tests of series and evidence share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from pipelines.evidence.codes import MILLILITER
from pipelines.evidence.request import EvidenceRequest, Installation, RefusalRequest
from pipelines.manifest import CodeSpec, InputSpec, Manifest, SegmentSpec, WeightsSpec
from pipelines.result import AnalysisResult, Measurement, Notice, Segment, SourceSeries
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series

#: Slices, rows, columns: all different, columns no multiple of 8 (bits of frames do not end on bytes).
SHAPE = (11, 36, 43)
#: mm between slices, rows, columns.
SPACING = (2.5, 0.8, 0.7)
#: A voxel (slice, row, column) that has this value and no other has it.
MARK, MARK_VALUE = (8, 3, 21), 1777

#: Directions (LPS) of increasing slice, row and column index.
ORIENTATIONS = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "axial, feet first": ((0, 0, -1), (0, 1, 0), (-1, 0, 0)),
    "axial, prone": ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    "axial, columns flipped": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "oblique": None,
}


def affine_of(orientation: str) -> NDArray[np.float64]:
    """Indices (slice, row, column) -> LPS mm."""
    directions = ORIENTATIONS[orientation]
    if directions is None:
        # Angulated about two axes, as MR of a scoliotic spine is.
        first, second = np.radians(17.0), np.radians(-24.0)
        about_x = np.array(
            [[1, 0, 0], [0, np.cos(first), -np.sin(first)], [0, np.sin(first), np.cos(first)]]
        )
        about_y = np.array(
            [[np.cos(second), 0, np.sin(second)], [0, 1, 0], [-np.sin(second), 0, np.cos(second)]]
        )
        axes = about_x @ about_y @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]).T
    else:
        axes = np.array(directions, dtype=np.float64).T
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(SPACING)
    affine[:3, 3] = (-31.5, 12.25, 104.75)
    return affine


def make_volume(orientation: str = "axial") -> Volume:
    """HU with a marked voxel and two lopsided blocks (400 and 700 HU) in soft tissue."""
    array = np.full(SHAPE, 40, np.int16)
    array[1:5, 2:9, 3:6] = 400
    array[1, 2, 3:14] = 400
    array[6:10, 12:18, 15:26] = 700
    array[MARK] = MARK_VALUE
    return Volume(array=array, affine=affine_of(orientation), coordinate_system="PATIENT")


def write_series(
    folder: Path,
    *,
    orientation: str = "axial",
    options: SeriesOptions | None = None,
    change: Callable[[list[Dataset]], Any] | None = None,
) -> list[Path]:
    """Files of a valid CT series; `change` may spoil its data sets before they are written."""
    datasets = ct_series(make_volume(orientation), seed=7, options=options)
    if change is not None:
        change(datasets)
    paths = []
    for number, ds in enumerate(datasets):
        path = folder / f"{number:03d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


# -- results ------------------------------------------------------------------------------------

INSTALLATION = Installation(
    institution="Test Hospital",
    serial_number="SN-1",
    uid_root="2.25",
    software_version="0.1.0",
)
STARTED_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ANATOMY = CodeSpec(value="91723000", scheme="SCT", meaning="Anatomical Structure")


def make_spec(number: int, **changes: Any) -> SegmentSpec:
    """A segment of bone."""
    values: dict[str, Any] = {
        "number": number,
        "label": f"Bone {number}",
        "category": ANATOMY,
        "type": CodeSpec(value="272673000", scheme="SCT", meaning="Bone"),
        "rgb": (230, 200, 60 + 40 * number),
    }
    return SegmentSpec(**{**values, **changes})


def make_manifest(specs: Sequence[SegmentSpec], **changes: Any) -> Manifest:
    """A pipeline of these segments."""
    values: dict[str, Any] = {
        "name": "ct_bone",
        "version": "1.2.3",
        "title": "Bone in CT",
        "procedure": CodeSpec(value="77477000", scheme="SCT", meaning="Computed tomography"),
        "inputs": {"ct": InputSpec(modality=("CT",))},
        "segments": tuple(specs),
        "parameters": {"threshold": 300.0},
        "weights": WeightsSpec(file="weights.safetensors", sha256="ab" * 32),
    }
    return Manifest(**{**values, **changes})


def make_label_map(source: SourceSeries) -> Volume:
    """1 where the series has 400 HU, 2 where it has 700 HU."""
    array = source.volume.array
    labels = (array == 400).astype(np.uint8) + 2 * (array == 700).astype(np.uint8)
    return source.volume.with_array(labels)


def make_result(
    source: SourceSeries, specs: Sequence[SegmentSpec], label_map: Volume | None = None
) -> AnalysisResult:
    """Volume and mean HU of each segment with voxels, volume alone of the others."""
    labels = make_label_map(source) if label_map is None else label_map
    measurements = []
    for spec in specs:
        inside = labels.array == spec.number
        millilitres = float(np.count_nonzero(inside)) * float(labels.voxel_volume) / 1000
        measurements.append(
            Measurement(
                name=codes.SCT.Volume,
                value=millilitres,
                unit=MILLILITER,
                segment_number=spec.number,
            )
        )
        if inside.any():
            measurements.append(
                Measurement(
                    name=codes.DCM.AttenuationCoefficient,
                    value=float(source.volume.array[inside].mean()),
                    unit=codes.UCUM.HounsfieldUnit,
                    derivation=codes.SCT.Mean,
                    segment_number=spec.number,
                )
            )
    return AnalysisResult(
        role="ct",
        label_map=labels,
        segments=tuple(Segment(number=spec.number, spec=spec, label=spec.label) for spec in specs),
        measurements=tuple(measurements),
        notices=(Notice(code="cut", message="Bone 2 is cut by the field of view."),),
    )


def make_request(
    source: SourceSeries,
    *,
    specs: Sequence[SegmentSpec] | None = None,
    result: AnalysisResult | None = None,
    **changes: Any,
) -> EvidenceRequest:
    """A request of two segments on a source."""
    specs = specs or (make_spec(1), make_spec(2))
    values: dict[str, Any] = {
        "workitem_uid": "2.25.314159265358979",
        "manifest": make_manifest(specs),
        "source": source,
        "result": result or make_result(source, specs),
        "installation": INSTALLATION,
        "started_at": STARTED_AT,
        "parameters": {"threshold": 300.0},
    }
    return EvidenceRequest(**{**values, **changes})


def make_refusal(sources: Sequence[tuple[Dataset, ...]]) -> RefusalRequest:
    """A workitem that the pipeline declined."""
    return RefusalRequest(
        workitem_uid="2.25.314159265358979",
        manifest=make_manifest([make_spec(1)]),
        sources=tuple(sources),
        installation=INSTALLATION,
        started_at=STARTED_AT,
        code="no-trunk",
        message="The series shows no trunk.",
        parameters={"threshold": 300.0},
    )
