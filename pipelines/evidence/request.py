"""What evidence is made from, and what comes out: the values between the steps of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from pipelines.errors import ManifestError
from pipelines.evidence.codes import PRIVATE_SCHEME
from pipelines.manifest import Manifest
from pipelines.result import AnalysisResult, Measurement, QualitativeEvaluation, SourceSeries
from pipelines.uids import derive_device_uid, derive_tracking_uid
from storage.model import Evidence, Parameters, Prior, SegmentResidual


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Which node made it."""

    #: Institution Name (0008,0080); may be empty.
    institution: str
    #: Device Serial Number (0018,1000).
    serial_number: str
    #: Root of the UIDs we make.
    uid_root: str
    #: Version of the node's software, e.g. `0.1.0`.
    software_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRequest:
    """One result, and what its evidence must say about where it comes from."""

    workitem_uid: str
    manifest: Manifest
    #: The input on whose slice grid the label map lies (`result.role`).
    source: SourceSeries
    result: AnalysisResult
    installation: Installation
    #: When the analysis started (aware): Content Date and Time, by IHE AIR 6.5.3.1.
    started_at: datetime
    #: The parameters the pipeline ran with, complete.
    parameters: Parameters
    #: The other inputs that were analysed.
    partners: tuple[SourceSeries, ...] = ()
    #: Segment Label -> Tracking UID of the same structure in a study before.
    known_findings: Mapping[str, str] = field(default_factory=dict)
    #: Evidence that this result replaces: its reports name those of it that they follow.
    replaced: tuple[Evidence, ...] = ()
    #: The workitem that the result as a whole is tracked by: the first of its line; itself when empty.
    tracked_as: str = ""
    #: The earlier result that this one was compared with.
    prior: Prior | None = None

    @property
    def header(self) -> Dataset:
        """The data set that says whose study this is."""
        return self.source.datasets[0]

    @property
    def device_uid(self) -> str:
        """Device UID (0018,1002): another one whenever the model changes."""
        return _device_uid(self.manifest, self.installation)

    @property
    def codes(self) -> tuple[Code, ...]:
        """What the result says in codes: names of its statements, and answers."""
        return (
            *(item.name for item in statements(self.result)),
            *(item.value for item in self.result.evaluations),
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """What the result says in words."""
        specs = [segment.spec for segment in self.result.segments]
        return (
            *(notice.message for notice in self.result.notices),
            *(segment.label for segment in self.result.segments),
            *(
                code.meaning
                for spec in specs
                for code in (spec.category, spec.type, spec.site)
                if code
            ),
            *(code.meaning for code in self.codes),
            *(item.unit.meaning for item in self.result.measurements),
        )

    def tracking_uid(self, segment_number: int) -> str:
        """Tracking UID of a segment of the result, equal in SEG and SR; 0 stands for the result as a whole.

        A structure that every patient has once, so that its label is the manifest's, keeps the UID of the study
        before (IHE AIR 6.5.3.7). `Tumour 3` is a number in one result, and no name. The whole of a result that
        replaces another is the same whole.
        """
        if segment_number:
            segment = self.result.segments[segment_number - 1]
            if segment.label == segment.spec.label and segment.label in self.known_findings:
                return self.known_findings[segment.label]
        return derive_tracking_uid(
            self.installation.uid_root,
            workitem_uid=self.workitem_uid
            if segment_number
            else self.tracked_as or self.workitem_uid,
            segment_number=segment_number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRequest:
    """A workitem that ended without a result, and why."""

    workitem_uid: str
    manifest: Manifest
    #: Headers of the instances of each series that was to be analysed; the first series has one at least. They need
    #: Study, Series and SOP Instance UID and SOP Class UID; all else may be missing or wrong.
    sources: tuple[tuple[Dataset, ...], ...]
    installation: Installation
    #: When the analysis started, or was refused (aware).
    started_at: datetime
    #: Why, in a word for machines (`no-trunk`, `time-limit`).
    code: str
    #: Why, in a sentence for people.
    message: str
    #: The parameters the pipeline was to run with.
    parameters: Parameters = field(default_factory=dict)

    @property
    def header(self) -> Dataset:
        """The data set that says whose study this is."""
        return self.sources[0][0]

    @property
    def device_uid(self) -> str:
        """Device UID (0018,1002), as of results of the same model."""
        return _device_uid(self.manifest, self.installation)

    @property
    def codes(self) -> tuple[Code, ...]:
        """What it says in codes that are not the standard's: the reason."""
        return (Code(self.code, PRIVATE_SCHEME, self.code.replace("-", " ").capitalize()[:64]),)

    @property
    def texts(self) -> tuple[str, ...]:
        """What it says in words."""
        return (self.message,)


#: Whatever an object is made of.
Request: TypeAlias = EvidenceRequest | RefusalRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceObject:
    """One DICOM instance made of a result, with file meta information."""

    #: `SEG`, `SR` ...
    kind: str
    ds: Dataset
    #: The same as a file (PS3.10): of a SEG, the very bytes that were proven. Archive these.
    encoded: bytes
    #: Names of the profiles it was made for.
    profiles: tuple[str, ...] = ()
    #: Of a SEG: the proof that it says what the label map says.
    residuals: tuple[SegmentResidual, ...] = ()


def check_result(result: AnalysisResult, source: SourceSeries) -> None:
    """Hold a pipeline to the contract of `AnalysisResult`.

    Raises
    ------
    ManifestError
        `result-invalid`, with what is wrong: whoever wrote the pipeline must act.
    """
    numbers = [segment.number for segment in result.segments]
    labels = [segment.label for segment in result.segments]
    array = result.label_map.array
    wrong = None
    if array.dtype not in (np.uint8, np.uint16):
        wrong = f"the label map is {array.dtype}, not uint8 or uint16"
    elif not result.label_map.geometry_equal(source.volume):
        wrong = "the label map does not lie on the grid of its input (shape or affine)"
    elif numbers != list(range(1, len(numbers) + 1)):
        wrong = f"segment numbers must run 1, 2, 3 ... in order, not {numbers}"
    elif len(set(labels)) != len(labels) or not all(0 < len(label) <= 64 for label in labels):
        wrong = "segment labels must be unique and of 1 to 64 characters"
    elif int(array.max(initial=0)) > len(numbers):
        wrong = (
            f"the label map holds the value {array.max()}, but there are {len(numbers)} segments"
        )
    elif not result.segments and not result.measurements:
        wrong = "it has neither segments nor measurements"
    else:
        wrong = _wrong_statement(result)
    if wrong is not None:
        raise ManifestError(
            f"The pipeline's result breaks the contract: {wrong}.", code="result-invalid"
        )


def statements(result: AnalysisResult) -> tuple[Measurement | QualitativeEvaluation, ...]:
    """Everything the result says, in numbers and in codes."""
    return (*result.measurements, *result.evaluations)


def _device_uid(manifest: Manifest, installation: Installation) -> str:
    return derive_device_uid(
        installation.uid_root,
        pipeline=manifest.name,
        version=manifest.version,
        weights_sha256="" if manifest.weights is None else manifest.weights.sha256,
    )


def _wrong_statement(result: AnalysisResult) -> str | None:
    """What is wrong with a measurement or an evaluation, if anything."""
    numbers = {None, *(segment.number for segment in result.segments)}
    for measurement in result.measurements:
        if not np.isfinite(measurement.value):
            return f"measurement {measurement.name.meaning!r} is {measurement.value}"
    for statement in statements(result):
        if statement.segment_number not in numbers:
            return f"{statement.name.meaning!r} names segment {statement.segment_number}"
    return None
