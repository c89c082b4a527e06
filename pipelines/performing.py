"""One run of one pipeline, from files to proven evidence: `perform`.

The same steps for a worker of the node and for `osteonode pipelines run`: read each input, run, hold the result to the
contract, make evidence, prove it. Nothing is written here.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pydicom import Dataset

from pipelines.comparison import compare, interval
from pipelines.errors import InputError, ManifestError, Refused, shown
from pipelines.evidence.gate import check_iod
from pipelines.evidence.profile import GENERIC, Profile
from pipelines.evidence.proof import encode
from pipelines.evidence.readback import read_back
from pipelines.evidence.refusal import create_refusal_sr
from pipelines.evidence.request import (
    EvidenceObject,
    EvidenceRequest,
    Installation,
    RefusalRequest,
    check_result,
)
from pipelines.evidence.sr import KIND as SR_KIND
from pipelines.manifest import InputSpec, Manifest
from pipelines.reading import READ_ERRORS, is_uid, read_file
from pipelines.registry import LoadedPipeline, pipeline_code
from pipelines.result import AnalysisResult, Measurement, Notice, SourceSeries
from pipelines.series import read_series
from storage.model import Evidence, Finding, MeasurementRow, Parameters, Prior

_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformRequest:
    """What one run is made of."""

    workitem_uid: str
    #: Role -> files of one series; a role that is optional may be missing.
    inputs: Mapping[str, tuple[Path, ...]]
    #: Overrides of the manifest's defaults.
    parameters: Parameters
    #: When the analysis started (aware).
    started_at: datetime
    installation: Installation
    #: Name -> which evidence is wanted.
    profiles: Mapping[str, Profile] = field(default_factory=lambda: GENERIC)
    #: Segment Label -> Tracking UID of the same structure in a study before.
    known_findings: Mapping[str, str] = field(default_factory=dict)
    #: Evidence that this result replaces: its reports name those of it that they follow.
    replaced: tuple[Evidence, ...] = ()
    #: The workitem that the result as a whole is tracked by: the first of its line; itself when empty.
    tracked_as: str = ""
    #: What did not come of the inputs, code and sentence, where they are analysed all the same as far as they have no
    #: gap, with a notice; where nothing is said, a gap is refused.
    lacks: tuple[tuple[str, str], ...] = ()
    #: What the result is compared with; None where nobody asked.
    prior: Prior | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """What one run made."""

    evidence: tuple[EvidenceObject, ...]
    result: AnalysisResult
    #: Role -> series: what pictures are drawn on.
    sources: Mapping[str, SourceSeries]
    measurements: tuple[MeasurementRow, ...]
    findings: tuple[Finding, ...]
    notices: tuple[Notice, ...]
    #: Seconds per step: start, load, infer, encode.
    timings: Mapping[str, float]


def perform(loaded: LoadedPipeline, request: PerformRequest) -> Performed:
    """Run a loaded pipeline on one set of inputs.

    Raises
    ------
    InputError
        When a role that is needed has no series, or none has; or its files are no volume.
    Refused
        When a series is not what the manifest takes, two lie in different frames of reference, or the pipeline
        declines them.
    ManifestError
        When a parameter or the result breaks the contract.
    UnprovenError
        When the evidence, read back, is not the result.
    PipelineError
        Code `pipeline-crashed`, for anything else the pipeline's code raises.
    MemoryError
        When the machine or the device has none left.
    """
    manifest = loaded.entry.manifest
    timings: dict[str, float] = {}
    parameters = manifest.merge(request.parameters)
    with _timed(timings, "load"):
        sources = _read_inputs(manifest, request.inputs, allow_gaps=bool(request.lacks))
    with _timed(timings, "infer"), pipeline_code(loaded.entry):
        result = loaded.pipeline.run(loaded.model, sources, parameters)
    with _timed(timings, "encode"):
        _check(result, sources)
        gaps = _gaps(request, sources)
        result = replace(result, notices=(*_absences(manifest, sources), *gaps, *result.notices))
        if gaps:
            # What did not come is in no volume, and would be a change.
            request = replace(request, prior=None)
        result = compare(result, request.prior, pipeline_version=manifest.version)
        described = EvidenceRequest(
            workitem_uid=request.workitem_uid,
            manifest=manifest,
            source=sources[result.role],
            result=result,
            installation=request.installation,
            started_at=request.started_at,
            parameters=parameters,
            partners=tuple(source for role, source in sources.items() if role != result.role),
            known_findings=request.known_findings,
            replaced=request.replaced,
            tracked_as=request.tracked_as,
            prior=request.prior,
        )
        # It loads what draws pages and pictures; the node imports this module too, and makes no evidence.
        from pipelines.evidence.create import create_evidence  # noqa: PLC0415

        evidence = create_evidence(described, request.profiles)
    return Performed(
        evidence=evidence,
        result=result,
        sources=sources,
        measurements=_rows(manifest, request, result, sources[result.role]),
        findings=tuple(
            Finding(
                workitem_uid=request.workitem_uid,
                segment_number=segment.number,
                segment_label=segment.label,
                tracking_uid=described.tracking_uid(segment.number),
            )
            for segment in result.segments
        ),
        notices=result.notices,
        timings=timings,
    )


def refuse(manifest: Manifest, request: PerformRequest, code: str, message: str) -> EvidenceObject:
    """Make the report of a run that brought no result.

    Parameters
    ----------
    request
        As of the run.
    code, message
        Why: for machines, and in a sentence.

    Raises
    ------
    InputError
        `input-unreadable`, when no file of the inputs has a header that says whose study it is.
    """
    sources = tuple(
        headers for paths in request.inputs.values() if (headers := _read_headers(paths))
    )
    if not sources:
        raise InputError(
            "No file of the inputs has a header that says whose study it is.",
            code="input-unreadable",
        )
    ds = create_refusal_sr(
        RefusalRequest(
            workitem_uid=request.workitem_uid,
            manifest=manifest,
            sources=sources,
            installation=request.installation,
            started_at=request.started_at,
            code=code,
            message=message,
            parameters=request.parameters,
        )
    )
    encoded = encode(ds)
    check_iod(read_back(encoded).ds)
    return EvidenceObject(kind=SR_KIND, ds=ds, encoded=encoded, profiles=tuple(request.profiles))


def _read_headers(paths: Sequence[Path]) -> tuple[Dataset, ...]:
    """What can be read of them; a file that cannot may be the reason why there is no result."""
    headers = []
    for path in paths:
        with suppress(InputError, *READ_ERRORS):
            ds = read_file(path, stop_before_pixels=True)
            if all(is_uid(ds.get(keyword)) for keyword in _IDENTITY):
                headers.append(ds)
    return tuple(headers)


def choose_device(asked: str = "") -> str:
    """The torch device to run on: the one asked for, else the first GPU, else the CPU."""
    if asked:
        return asked
    # torch is imported only where it may find something: a pipeline without a network shall not pay for it.
    if has_gpu() and importlib.import_module("torch").cuda.is_available():
        return "cuda:0"
    return "cpu"


def has_gpu() -> bool:
    """Whether this machine has a GPU of NVIDIA's with its driver."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


# -- inputs ---------------------------------------------------------------------------------------


def _read_inputs(
    manifest: Manifest, inputs: Mapping[str, Sequence[Path]], *, allow_gaps: bool
) -> dict[str, SourceSeries]:
    for role in inputs:
        if role not in manifest.inputs:
            raise InputError(
                f"Pipeline {manifest.name} has no input {role!r}; it takes {', '.join(manifest.inputs)}.",
                code="input-role-unknown",
            )
    sources = {}
    if not any(inputs.values()):
        raise InputError(
            f"Pipeline {manifest.name} needs a series for {' or '.join(map(repr, manifest.inputs))}.",
            code="input-role-missing",
        )
    for role, spec in manifest.inputs.items():
        if inputs.get(role):
            sources[role] = read_series(inputs[role], allow_gaps=allow_gaps)
            _demand_accepted(role, spec, sources[role])
        elif not spec.optional:
            raise InputError(
                f"Pipeline {manifest.name} needs a series for its input {role!r}.",
                code="input-role-missing",
            )
    _demand_same_frames(manifest, sources)
    return sources


def _demand_accepted(role: str, spec: InputSpec, source: SourceSeries) -> None:
    """Routing asks the same before; a series given by hand has not been asked."""
    modality = str(source.datasets[0].get("Modality", ""))
    if modality not in spec.modality:
        raise Refused(
            f"Input {role!r} takes Modality {' or '.join(spec.modality)}, not {shown(modality, 16) or 'none'}.",
            code="input-modality",
        )
    slices = source.volume.spatial_shape[0]
    if slices < spec.min_instances:
        raise Refused(
            f"Input {role!r} needs {spec.min_instances} instances; the series has {slices}.",
            code="input-too-few-instances",
        )


def _demand_same_frames(manifest: Manifest, sources: Mapping[str, SourceSeries]) -> None:
    """PS3.3 C.7.4.1.1.1: positions of two series compare only where Frame of Reference UID is the same."""
    for role, source in sources.items():
        other = manifest.inputs[role].same_frame_as
        if other is None or other not in sources:
            continue
        mine, theirs = (one.volume.frame_of_reference_uid for one in (source, sources[other]))
        if not mine or mine != theirs:
            raise Refused(
                f"Inputs {role!r} and {other!r} have different Frame of Reference UIDs ({mine or 'none'}, "
                f"{theirs or 'none'}): nothing says how one lies on the other.",
                code="input-other-frame-of-reference",
            )


def _absences(manifest: Manifest, sources: Mapping[str, SourceSeries]) -> Iterator[Notice]:
    """What a reader must know of a run that had less than the pipeline can use."""
    for role, spec in manifest.inputs.items():
        if role not in sources:
            what = f" ({spec.description.rstrip('.')})" if spec.description else ""
            yield Notice(code="input-absent", message=f"Analysed without the input {role!r}{what}.")


def _gaps(request: PerformRequest, sources: Mapping[str, SourceSeries]) -> list[Notice]:
    """What did not come: as reading found it where there is a gap, else as the request says."""
    found = [source.gap for source in sources.values() if source.gap is not None]
    codes = {notice.code for notice in found}
    said = [Notice(code=code, message=text) for code, text in request.lacks if code not in codes]
    if request.prior is not None and (found or said):
        text = "Not compared with the study before: not all of this one is here."
        said.append(Notice(code="prior-not-compared", message=text))
    return [*found, *said]


# -- results --------------------------------------------------------------------------------------


def _check(result: object, sources: Mapping[str, SourceSeries]) -> None:
    """What `check_result` takes for granted, then `check_result`."""
    if not isinstance(result, AnalysisResult):
        raise ManifestError(
            f"The pipeline's run returned {type(result).__name__}, not AnalysisResult.",
            code="result-invalid",
        )
    if result.role not in sources:
        raise ManifestError(
            f"The result lies on input {result.role!r}; the inputs are {', '.join(sources)}.",
            code="result-invalid",
        )
    check_result(result, sources[result.role])


def _rows(
    manifest: Manifest, request: PerformRequest, result: AnalysisResult, source: SourceSeries
) -> tuple[MeasurementRow, ...]:
    labels = {segment.number: segment.label for segment in result.segments}
    first = source.datasets[0]
    return tuple(
        MeasurementRow(
            workitem_uid=request.workitem_uid,
            pipeline=manifest.name,
            pipeline_version=manifest.version,
            study_instance_uid=str(first.StudyInstanceUID),
            series_instance_uid=str(first.SeriesInstanceUID),
            segment_number=measurement.segment_number,
            segment_label=labels.get(measurement.segment_number or 0, ""),
            concept_value=str(measurement.name.value),
            concept_scheme=str(measurement.name.scheme_designator),
            concept_meaning=_meaning(measurement),
            value=float(measurement.value),
            unit=str(measurement.unit.value),
            measured_at=request.started_at,
        )
        # The report has the interval in each group, where TID 1502 wants it.
        for measurement in (*result.measurements, *interval(request.prior))
    )


def _meaning(measurement: Measurement) -> str:
    """The concept in words; with what alone tells a mean from a maximum, and one level from another."""
    modifiers = [code for code in (measurement.derivation, measurement.site) if code is not None]
    said = ", ".join(str(code.meaning) for code in modifiers)
    return f"{measurement.name.meaning} ({said})" if said else str(measurement.name.meaning)


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[step] = round(time.perf_counter() - began, 3)
