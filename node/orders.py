"""Unified Procedure Steps between data sets and values: what one asks for, and what it is answered with. Pure.

References
----------
PS3.3 C.30 (modules of the Unified Procedure Step), PS3.4 Table CC.2.5-3 (what is needed at its end).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DT

from node.errors import WorklistError
from pipelines.evidence.codes import PRIVATE_SCHEME
from storage.model import Evidence, StepInput

#: (0074,1200), most urgent first.
PRIORITIES = ("HIGH", "MEDIUM", "LOW")
#: Longest ST and LO that we write (PS3.5 Table 6.2-1: 1024 and 64 characters).
_SENTENCE, _LABEL = 1024, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a step of a worklist asks for."""

    procedure_step_uid: str
    state: str
    priority: str
    #: `VALUE^SCHEME` of Scheduled Workitem Code, and of the stations it is for.
    codes: tuple[str, ...]
    stations: tuple[str, ...]
    #: Input Readiness State (0040,4041) is READY.
    is_ready: bool
    #: Scheduled Procedure Step Start DateTime (0040,4005); None where it says none.
    starts_at: datetime | None
    inputs: tuple[StepInput, ...]

    @property
    def study_instance_uid(self) -> str:
        """Of its first input; empty when there is none."""
        return self.inputs[0].study_instance_uid if self.inputs else ""


def read_order(ds: Dataset) -> Order:
    """Read a step.

    Raises
    ------
    node.errors.WorklistError
        Code `unreadable`, naming the attribute.
    """
    uid = _text(ds, "SOPInstanceUID")
    if not uid:
        raise WorklistError("unreadable", "A step has no SOP Instance UID (0008,0018).")
    return Order(
        procedure_step_uid=uid,
        state=_text(ds, "ProcedureStepState"),
        priority=_text(ds, "ScheduledProcedureStepPriority") or "MEDIUM",
        codes=_codes(ds, "ScheduledWorkitemCodeSequence"),
        stations=_codes(ds, "ScheduledStationNameCodeSequence"),
        # Type 1 of a step that is created; some leave it out of an answer.
        is_ready=_text(ds, "InputReadinessState") in ("READY", ""),
        starts_at=_time(_text(ds, "ScheduledProcedureStepStartDateTime")),
        inputs=tuple(
            _input(item, uid)
            for item in ds.get("InputInformationSequence") or ()
            # XDS documents and others are no images (PS3.3 Table 10-3b).
            if _text(item, "TypeOfInstances") in ("DICOM", "")
        ),
    )


def _input(item: Dataset, uid: str) -> StepInput:
    study, series = _text(item, "StudyInstanceUID"), _text(item, "SeriesInstanceUID")
    if not study or not series:
        raise WorklistError(
            "unreadable",
            f"Step {uid}: an item of its Input Information Sequence (0040,4021) names no study or no series.",
        )
    return StepInput(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uids=tuple(
            _text(one, "ReferencedSOPInstanceUID")
            for one in item.get("ReferencedSOPSequence") or ()
        ),
        retrieve_ae=_first(item, "DICOMRetrievalSequence", "RetrieveAETitle"),
        retrieve_url=_first(item, "WADORSRetrievalSequence", "RetrieveURL"),
    )


def progress(percent: float, sentence: str) -> Dataset:
    """Procedure Step Progress Information Sequence (0074,1002) of a step under way."""
    item = Dataset()
    item.ProcedureStepProgress = f"{percent:.0f}"
    item.ProcedureStepProgressDescription = sentence[:_SENTENCE]
    ds = Dataset()
    ds.ProcedureStepProgressInformationSequence = [item]
    return ds


def discontinued(reason: Code, sentence: str, now: datetime) -> Dataset:
    """What a step needs to be CANCELED: when, a code of CID 9300, and a sentence."""
    ds = progress(0, sentence)
    (item,) = ds.ProcedureStepProgressInformationSequence
    item.ProcedureStepCancellationDateTime = _moment(now)
    item.ReasonForCancellation = sentence[:_SENTENCE]
    item.ProcedureStepDiscontinuationReasonCodeSequence = [_coded(reason)]
    return ds


def performed(  # noqa: PLR0913 - one noun
    outputs: Iterable[tuple[Evidence, str]],
    *,
    work: str,
    station: str,
    serial_number: str,
    started_at: datetime,
    ended_at: datetime,
) -> Dataset:
    """UPS Performed Procedure Sequence (0074,1216): who did what, when, and what came of it, with all 100 percent.

    Parameters
    ----------
    outputs
        Each evidence with the AE title, or the URL of the DICOMweb service, that it was sent to: there it can be
        retrieved.
    work
        Scheduled Workitem Code, `VALUE^SCHEME`: what was asked is what was done.
    station, serial_number
        Our AE title and Device Serial Number.
    """
    item = Dataset()
    item.PerformedStationNameCodeSequence = [
        _coded(Code(serial_number[:16], PRIVATE_SCHEME, station))
    ]
    value, _, scheme = work.partition("^")
    item.PerformedWorkitemCodeSequence = [_coded(Code(value, scheme, value))]
    item.PerformedProcedureStepStartDateTime = _moment(started_at)
    item.PerformedProcedureStepEndDateTime = _moment(ended_at)
    item.OutputInformationSequence = _outputs(outputs)
    ds = progress(100, "Done.")
    ds.UnifiedProcedureStepPerformedProcedureSequence = [item]
    return ds


def _outputs(outputs: Iterable[tuple[Evidence, str]]) -> list[Dataset]:
    """Referenced Instances and Access Macro (PS3.3 Table 10-3b): an item for each series at each place."""

    def place(output: tuple[Evidence, str]) -> tuple[str, str, str]:
        one, where = output
        return one.study_instance_uid, one.series_instance_uid, where

    items = []
    for (study, series, where), group in groupby(sorted(outputs, key=place), key=place):
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID = study
        item.SeriesInstanceUID = series
        item.ReferencedSOPSequence = [_reference(one) for one, _ in group]
        retrieval = Dataset()
        if where.startswith(("http://", "https://")):
            retrieval.RetrieveURL = f"{where}/studies/{study}/series/{series}"
            item.WADORSRetrievalSequence = [retrieval]
        else:
            retrieval.RetrieveAETitle = where
            item.DICOMRetrievalSequence = [retrieval]
        items.append(item)
    return items


def _reference(one: Evidence) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID = one.sop_class_uid
    ds.ReferencedSOPInstanceUID = one.sop_instance_uid
    return ds


def _coded(code: Code) -> Dataset:
    ds = Dataset()
    # PS3.3 8.8: a value above 16 characters is a Long Code Value.
    setattr(ds, "CodeValue" if len(code.value) <= 16 else "LongCodeValue", code.value)
    ds.CodingSchemeDesignator = code.scheme_designator
    ds.CodeMeaning = code.meaning[:_LABEL]
    return ds


def _codes(ds: Dataset, keyword: str) -> tuple[str, ...]:
    items: Sequence[Dataset] = ds.get(keyword) or ()
    return tuple(
        f"{_text(item, 'CodeValue') or _text(item, 'LongCodeValue')}^{_text(item, 'CodingSchemeDesignator')}"
        for item in items
    )


def _first(ds: Dataset, sequence: str, keyword: str) -> str:
    return next((_text(item, keyword) for item in ds.get(sequence) or ()), "")


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip()


def _time(text: str) -> datetime | None:
    """A DT; None where it is none, or names no zone: nobody could say when it is."""
    try:
        read = DT(text) if text else None
    except ValueError:
        return None
    return read if isinstance(read, datetime) and read.tzinfo is not None else None


def _moment(when: datetime) -> str:
    """PS3.5 Table 6.2-1, DT, with its zone."""
    return when.strftime("%Y%m%d%H%M%S.%f%z")
