"""A folder of labelled studies, whatever they are stored as."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from pipelines.errors import PipelineError, TrainingError
from pipelines.manifest import Manifest
from pipelines.training.case import Case
from pipelines.training.data.dicom import find_dicom_cases
from pipelines.training.data.nifti import find_nifti_cases, has_nifti
from pipelines.training.data.reference import CaseRef
from pipelines.training.progress import counted

_log = structlog.get_logger(__name__)

_ERRORS_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Labelled studies of one folder.

    Attributes
    ----------
    kind
        `DICOM SEG` or `NIfTI`.
    cases
        In a fixed order.
    left_out
        What else lies in the folder and is no labelled study, in words; empty: nothing.
    """

    kind: str
    cases: tuple[CaseRef, ...]
    left_out: str = ""


def find_cases(folder: Path, manifest: Manifest, *, skip_unknown: bool = False) -> DataSet:
    """Find out what a folder holds.

    Parameters
    ----------
    folder
        DICOM files of series and SEGs in any arrangement, or NIfTI pairs.
    manifest
        Of the pipeline: its inputs and segments.
    skip_unknown
        Leave out labels that the manifest does not know, instead of refusing them.

    Raises
    ------
    TrainingError
        `training-no-data`, or what is wrong with a SEG or a label table, naming the file.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: there is no such folder.", code="training-no-data")
    if has_nifti(folder):
        data = DataSet(
            kind="NIfTI", cases=find_nifti_cases(folder, manifest, skip_unknown=skip_unknown)
        )
    else:
        cases, left_out = find_dicom_cases(folder, manifest, skip_unknown=skip_unknown)
        data = DataSet(kind="DICOM SEG", cases=cases, left_out=left_out)
    if data.cases and data.left_out:
        _log.warning("left out of the folder", what=data.left_out)
    if not data.cases:
        raise TrainingError(
            f"{folder} holds no labelled study{f' ({data.left_out})' if data.left_out else ''}: put there DICOM series "
            "with their DICOM SEG, or NIfTI pairs (imagesTr/labelsTr, or *_image.nii.gz with *_label.nii.gz).",
            code="training-no-data",
        )
    return data


def check_cases(data: DataSet) -> str:
    """Read every case once, before hours are spent on some of them.

    Returns
    -------
    str
        A fingerprint: the same for the same cases and labels.

    Raises
    ------
    TrainingError
        `training-data-invalid`, with what is wrong in each file, the first ten.
    """
    errors: list[str] = []
    digest = hashlib.sha256()
    for ref in counted(data.cases, "checking labelled studies", len(data.cases)):
        try:
            case = ref.load()
        except PipelineError as error:
            errors.append(str(error))
            continue
        counts = np.bincount(case.labels.array.ravel())
        digest.update(f"{ref.name} {case.image.shape} {counts.tolist()}\n".encode())
    if errors:
        more = f"\nand {len(errors) - _ERRORS_SHOWN} more" if len(errors) > _ERRORS_SHOWN else ""
        raise TrainingError(
            f"{len(errors)} of {len(data.cases)} labelled studies cannot be used:\n"
            + "\n".join(errors[:_ERRORS_SHOWN])
            + more,
            code="training-data-invalid",
        )
    return digest.hexdigest()


def describe(data: DataSet, cases: Sequence[CaseRef]) -> str:
    """Return in words what the cases are, without naming one."""
    groups = Counter(ref.group for ref in cases if ref.group)
    by_group = ", ".join(f"{count} {group}" for group, count in sorted(groups.items()))
    studies = "1 study" if len(cases) == 1 else f"{len(cases)} studies"
    patients = len({ref.subject for ref in cases})
    of_whom = "1 patient" if patients == 1 else f"{patients} patients"
    return f"own data: {studies} of {of_whom} ({data.kind}{'; ' + by_group if by_group else ''})"


class CaseCrops:
    """Draws training crops of own studies; keeps a few in memory and goes on to others.

    Parameters
    ----------
    cases
        To draw from.
    crop
        From a study to a random crop.
    per_case
        Crops drawn of a study, on average, before another takes its place.
    kept
        Studies in memory at once.
    """

    def __init__(
        self,
        cases: Sequence[CaseRef],
        crop: Callable[[Case, np.random.Generator], Case],
        *,
        per_case: int,
        kept: int = 4,
    ) -> None:
        self._cases = tuple(cases)
        self._crop = crop
        self._per_case = per_case
        self._kept = min(kept, len(self._cases))
        self._open: list[Case] = []
        self._queue: list[int] = []

    def __call__(self, rng: np.random.Generator) -> Case:
        """Return a crop; all studies come before one comes again."""
        if len(self._open) < self._kept:
            self._open.append(self._next(rng))
        elif len(self._cases) > self._kept and rng.random() < 1 / self._per_case:
            self._open[rng.integers(self._kept)] = self._next(rng)
        return self._crop(self._open[rng.integers(len(self._open))], rng)

    def _next(self, rng: np.random.Generator) -> Case:
        if not self._queue:
            self._queue = [int(index) for index in rng.permutation(len(self._cases))]
        return self._cases[self._queue.pop()].load()
