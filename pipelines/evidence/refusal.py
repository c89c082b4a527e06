"""No result is a result: a report that says in codes that an analysis was not done, and why.

A radiologist who waits for a result, and a display that looks for one, find the answer where the result would be:
in the study. The report is laid out as one of a result (TID 1500), under a title of its own. Its Qualitative
Evaluations say three things in codes (Row 13: how far the analysis came, the standard's reason, ours), and the reason
in a sentence (Row 14).
"""

from __future__ import annotations

import struct
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Final

from highdicom.sr import (
    Comprehensive3DSR,
    QualitativeEvaluation,
)
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.evidence.codes import PRIVATE_SCHEME
from pipelines.evidence.header import finish, first_header, series_attributes
from pipelines.evidence.report import Said, measurement_report
from pipelines.evidence.request import RefusalRequest

#: First words of the kinds that UIDs of refusals derive from; the whole kind is `refusal_kind`.
KIND: Final = "SR refusal"
#: What went wrong here, and not with the images: the analysis was begun. All other codes are refusals.
_OUT_OF_RESOURCES: Final = frozenset({"memory-limit", "time-limit"})
_BROKEN: Final = frozenset(
    {
        "evidence-altered",
        "evidence-unproven",
        "manifest-invalid",
        "no-cluster",
        "no-worker",
        "pipeline-broken",
        "pipeline-crashed",
        "pipeline-error",
        "pipeline-not-permitted",
        "result-invalid",
        "weights-invalid",
        "weights-missing",
        "worker-died",
        "worker-error",
    }
)
_INCOMPLETE: Final = frozenset(
    {
        "input-absent",
        "input-missing-slices",
        "input-role-missing",
        "input-too-few-instances",
        "input-too-few-slices",
    }
)
_OTHER_TYPE: Final = frozenset({"input-colour", "input-localizer", "input-modality"})
_TITLE: Final = Code("NOT-DONE", PRIVATE_SCHEME, "Analysis not done")
_STATUS: Final = Code("111065", "DCM", "Summary of Analyses")
_REASON: Final = Code("DISC-REASON", PRIVATE_SCHEME, "Discontinuation reason")
_DETAIL: Final = Code("DISC-DETAIL", PRIVATE_SCHEME, "Discontinuation reason in detail")
#: What pydicom raises on the value of a damaged element.
_DAMAGED: Final = (
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    struct.error,
)
_NO_RESULT: Final = "There is no result: the analysis was not done."


def create_refusal_sr(request: RefusalRequest) -> Dataset:
    """Make the report of a workitem that has no result.

    Elements of the source that cannot be read are left out: they may be why there is no result.

    Returns
    -------
    pydicom.Dataset
        Comprehensive 3D SR in the study of the first source, all instances of all sources its evidence. The code of
        `request` stands in it whole, as Code Value or, above 16 characters, as Long Code Value (PS3.3 8.8).
    """
    first, *others = [ds for source in request.sources for ds in source]
    request = replace(request, sources=((_readable(first), *others),))
    ds = Comprehensive3DSR(
        evidence=[first_header(request.header), *others],
        content=measurement_report(
            request,
            Said(
                evaluated=[item for evaluation in _evaluations(request) for item in evaluation],
                sentences=[_NO_RESULT, request.message],
                title=_TITLE,
            ),
        ),
        is_complete=True,
        **series_attributes(request, refusal_kind(request), what="not done"),
    )
    finish(ds, request)
    return ds


def refusal_kind(request: RefusalRequest) -> str:
    """The string that a refusal's UIDs derive from: another reason makes another object."""
    return f"{KIND}: {request.code}: {request.message}"


def _evaluations(request: RefusalRequest) -> list[QualitativeEvaluation]:
    status, reason = status_and_reason(request.code)
    (detail,) = request.codes
    return [
        QualitativeEvaluation(name=_STATUS, value=status),
        QualitativeEvaluation(name=_REASON, value=reason),
        QualitativeEvaluation(name=_DETAIL, value=detail),
    ]


def status_and_reason(code: str) -> tuple[Code, Code]:
    """CID 6042 Result Status, and CID 9300 Procedure Discontinuation Reason."""
    cid = codes.cid9300
    if code in _OUT_OF_RESOURCES:
        return codes.cid6042.Failed, cid.ResourceInadequate
    if code in _BROKEN:
        return codes.cid6042.Failed, cid.EquipmentFailure
    reason = cid.DiscontinuedForUnspecifiedReason
    if code in _INCOMPLETE:
        reason = cid.ObjectSetIncomplete
    elif code in _OTHER_TYPE:
        reason = cid.ObjectTypesNotSupported
    elif code.startswith("input-"):
        reason = cid.ObjectsIncorrectlyFormatted
    return codes.cid6042.NotAttempted, reason


def _readable(ds: Dataset) -> Dataset:
    """A copy without the elements that cannot be read."""
    copied = Dataset()
    for tag in ds.keys():  # noqa: SIM118 - a Dataset's items are elements
        with suppress(*_DAMAGED):
            copied.add(copy(ds[tag]))
    return copied
