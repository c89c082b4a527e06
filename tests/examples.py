"""A result of each pipeline on a small study with pixels: what viewers and other readers are shown.

Networks that need no training, or the truth of a phantom, stand for trained ones: what is shown does not depend on
how well they learned.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import hips
import numpy as np
import spines
import trunks
import volumes
from highdicom import Volume
from pydicom import Dataset
from scipy import ndimage

from pipelines.ct_trunk_muscle.pipeline import run as find_muscles
from pipelines.evidence.request import EvidenceRequest
from pipelines.manifest import CodeSpec, Manifest, SegmentSpec, read_manifest
from pipelines.mr_spine_tumor.phantoms import demo_phantom
from pipelines.mr_spine_tumor.pipeline import run as find_tumours
from pipelines.qct_femur.pipeline import run as find_femora
from pipelines.registry import BUILT_IN
from pipelines.result import AnalysisResult, SourceSeries
from pipelines.series import read_series
from pipelines.spect_ct_bone_lesion.phantoms import example as spect_ct_example
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.training.phantoms.mr_dicom import mr_series
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.spect_dicom import SPECT_SERIES, nm_image, of_study
from pipelines.training.phantoms.tissues import skeleton_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A study, and what was found in it."""

    #: Every instance of the study, with pixels and file meta information.
    instances: tuple[Dataset, ...]
    #: What evidence is made of.
    request: EvidenceRequest


def bones(folder: Path, *, count: int = 6) -> Example:
    """Ellipsoids beside each other, largest on the same slice, of a pipeline of none of ours; each its own colour."""
    shape = (24, 160, 192)
    z, y, x = np.indices(shape)
    image = np.where(((y - 80) / 70) ** 2 + ((x - 96) / 88) ** 2 < 1, 40, -1000).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    side = int(np.ceil(np.sqrt(count)))
    for index in range(count):
        row, column = divmod(index, side)
        rows = (y - 80 - (row - (side - 1) / 2) * 90 / side) / (40 / side)
        columns = (x - 96 - (column - (side - 1) / 2) * 120 / side) / (46 / side)
        labels[rows**2 + columns**2 + ((z - 12) / 10) ** 2 < 1] = index + 1
    # Lopsided: a viewer that turns or mirrors it is found out.
    labels[12, 30:34, 60:64] = 1
    image[labels > 0] = 300 + 20 * labels[labels > 0].astype(np.int16)
    volume = _volume(image, (3.0, 1.5, 1.5))
    instances = ct_series(volume, seed=31)
    source = _read(folder, instances)
    femur = CodeSpec(value="71341001", scheme="SCT", meaning="Femur")
    specs = [
        volumes.make_spec(number, site=femur, rgb=_colour((number - 1) / count))
        for number in range(1, count + 1)
    ]
    result = _measured(source, specs, volume.with_array(labels))
    request = volumes.make_request(source, specs=specs, result=result, workitem_uid="2.25.31")
    return Example(instances=tuple(instances), request=request)


def empty_study(folder: Path, *, seed: int) -> Example:
    """A few slices on which nothing was found."""
    volume = volumes.make_volume()
    instances = ct_series(volume, seed=seed)
    source = _read(folder, instances)
    spec = volumes.make_spec(1)
    nothing = source.volume.with_array(np.zeros(source.volume.shape, np.uint8))
    result = volumes.make_result(source, [spec], nothing)
    request = volumes.make_request(source, specs=[spec], result=result, workitem_uid=f"2.25.{seed}")
    return Example(instances=tuple(instances), request=request)


def ct_skeleton(folder: Path) -> Example:
    """The skeleton of a phantom, as its truth says."""
    options = ProceduralOptions(slices=12, rows=200, columns=220, pixel_spacing=2, middle=110)
    phantom = procedural_phantom(options, seed=1)
    instances = ct_series(phantom.image, seed=32)
    manifest = read_manifest(BUILT_IN / "ct_skeleton")
    source = _read(folder, instances)
    skeleton = skeleton_of(phantom.tissues)
    labels = skeleton.with_array((skeleton.array > 0).astype(np.uint8))
    result = _measured(source, manifest.segments, labels)
    return _example(instances, source, manifest, result, 32)


def ct_trunk_muscle(folder: Path) -> Example:
    """Rods for muscles, blocks for vertebrae."""
    volume = trunks.scene(("T12", "L1", "L2", "L3", "L4"))
    instances = ct_series(volume, seed=33)
    source = _read(folder, instances)
    result = find_muscles(trunks.model(), {"ct": source}, trunks.PARAMETERS)
    return _example(instances, source, trunks.MANIFEST, result, 33)


def mr_spine_tumor(folder: Path) -> Example:
    """Two balls in a spine, sagittal."""
    volume = spines.scene(spines.grid())
    instances = mr_series(replace(demo_phantom(1), image=volume), seed=34)
    said = spines.source(volume).datasets[0]
    for ds in instances:
        for keyword in ("ContrastBolusAgent", "RepetitionTime", "EchoTime", "ScanningSequence"):
            setattr(ds, keyword, said[keyword].value)
        ds.SeriesDescription = said.SeriesDescription
    source = _read(folder, instances)
    result = find_tumours(
        spines.model_that_sees_brightness(), {"mr": source}, dict(spines.PARAMETERS)
    )
    return _example(instances, source, spines.MANIFEST, result, 34)


def qct_femur(folder: Path) -> Example:
    """Both femora of a pelvis made of simple bodies."""
    volume = hips.scene(hips.grid())
    instances = ct_series(volume, seed=35)
    source = _read(folder, instances)
    parameters = {**hips.PARAMETERS, "calibration_slope": 0.8}
    result = find_femora(hips.model_that_sees_density(), {"ct": source}, parameters)
    return _example(instances, source, hips.MANIFEST, result, 35)


def spect_ct_bone_lesion(folder: Path) -> Example:
    """Lesions of a phantom on its multi-frame SPECT, as its truth says."""
    made = spect_ct_example(1)
    options = SeriesOptions(study_description="Phantom SPECT/CT")
    spect = nm_image(made.spect, seed=36, options=of_study(SPECT_SERIES, options))
    source = _read(folder, [spect])
    manifest = read_manifest(BUILT_IN / "spect_ct_bone_lesion")
    truth = made.labels.array
    labels, specs = np.zeros(truth.shape, np.uint8), []
    for spec in manifest.segments:
        places, count = ndimage.label(truth == spec.number)
        for number in range(1, count + 1):
            labels[places == number] = len(specs) + 1
            change = {"number": len(specs) + 1, "label": f"{spec.label} {number}"}
            specs.append(spec.model_copy(update=change))
    result = _measured(source, specs, made.labels.with_array(labels))
    result = replace(result, role="spect")
    instances = [spect, *ct_series(made.ct.image, seed=36, options=options)]
    return _example(instances, source, manifest, result, 36)


#: Name of a pipeline -> its example.
EXAMPLES: dict[str, Callable[[Path], Example]] = {
    "ct_skeleton": ct_skeleton,
    "ct_trunk_muscle": ct_trunk_muscle,
    "mr_spine_tumor": mr_spine_tumor,
    "qct_femur": qct_femur,
    "spect_ct_bone_lesion": spect_ct_bone_lesion,
}


def _read(folder: Path, instances: Sequence[Dataset]) -> SourceSeries:
    paths = [folder / f"{number:04d}.dcm" for number in range(len(instances))]
    for ds, path in zip(instances, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return read_series(paths)


def _volume(array: np.ndarray, spacing: Sequence[float]) -> Volume:
    return Volume.from_components(
        array,
        spacing=spacing,
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation="FPL",
    )


def _colour(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _measured(source: SourceSeries, specs: Sequence[SegmentSpec], labels: Volume) -> AnalysisResult:
    # Read anew, the slices may be in another order.
    return volumes.make_result(source, specs, labels.match_geometry(source.volume))


def _example(
    instances: Sequence[Dataset],
    source: SourceSeries,
    manifest: Manifest,
    result: AnalysisResult,
    seed: int,
) -> Example:
    request = volumes.make_request(
        source,
        result=result,
        manifest=manifest,
        parameters=dict(manifest.parameters),
        workitem_uid=f"2.25.{seed}",
    )
    return Example(instances=tuple(instances), request=request)
