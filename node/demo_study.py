"""The study that shows a pipeline where the user gives none: computed, and written as DICOM files.

A pipeline's `phantoms.py` may have a function `demo_study(seed)`. It returns a CT volume (`highdicom.Volume`, HU), or
the instances of one study (pydicom data sets with file meta information): as many series, of whatever modality, as
the pipeline takes. Without it a pipeline that takes CT is shown an abdomen and pelvis.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
from pydicom import Dataset

from pipelines.errors import ManifestError
from pipelines.registry import PHANTOMS_NAME, PipelineEntry, import_phantoms, pipeline_code
from pipelines.training.phantoms.dicom import write_ct_series
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom

DEMO_STUDY = "demo_study"
_SEED = 1


def write_demo_study(entry: PipelineEntry, folder: Path) -> list[Path]:
    """Write the pipeline's demo study, the same each time; its files.

    Raises
    ------
    ManifestError
        Code `no-demo-study` when the pipeline has none and does not take CT; `demo-study-invalid` when what it
        returns is no study.
    """
    made = _compute(entry)
    if isinstance(made, hd.Volume):
        return write_ct_series(made, folder, seed=_SEED)
    if (
        not isinstance(made, Sequence)
        or not made
        or not all(isinstance(ds, Dataset) and hasattr(ds, "file_meta") for ds in made)
        or len({ds.get("StudyInstanceUID") for ds in made}) != 1
    ):
        raise ManifestError(
            f"{entry.folder / PHANTOMS_NAME}: {DEMO_STUDY} must return a CT volume, or the data sets of one study with "
            f"file meta information.",
            code="demo-study-invalid",
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.dcm" for number in range(1, len(made) + 1)]
    for ds, path in zip(made, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return paths


def has_demo_study(entry: PipelineEntry) -> bool:
    """Whether the pipeline computes a demo study of its own.

    Raises
    ------
    ManifestError
        When its `phantoms.py` cannot be imported.
    """
    return hasattr(import_phantoms(entry), DEMO_STUDY)


def _compute(entry: PipelineEntry) -> Any:
    own = getattr(import_phantoms(entry), DEMO_STUDY, None)
    if own is not None:
        with pipeline_code(entry):
            return own(_SEED)
    if not any("CT" in spec.modality for spec in entry.manifest.inputs.values()):
        raise ManifestError(
            f"Pipeline {entry.manifest.name} takes no CT and has no study to show itself with: give your own, or "
            f"write {DEMO_STUDY} in {entry.folder / PHANTOMS_NAME} (docs/writing-a-pipeline.md).",
            code="no-demo-study",
        )
    return procedural_phantom(ProceduralOptions(), seed=_SEED).image
