"""A result -> the DICOM instances that say it, as each destination's profile wants them: `create_evidence`."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.evidence import seg, sr
from pipelines.evidence.profile import GENERIC, Profile
from pipelines.evidence.proof import encode, prove_encoded
from pipelines.evidence.request import EvidenceObject, EvidenceRequest, check_result


def create_evidence(
    request: EvidenceRequest, profiles: Mapping[str, Profile] = GENERIC
) -> tuple[EvidenceObject, ...]:
    """Make the objects of a result that any of these profiles wants, each form once, and prove them.

    The same request makes the same bytes. When no segment has a voxel there is no SEG, and the SR says so.

    Parameters
    ----------
    request
        The result, and where it comes from.
    profiles
        Name -> which objects, in which form.

    Raises
    ------
    ManifestError
        `result-invalid`, when the result breaks the contract of `AnalysisResult`.
    UnprovenError
        When the SEG, read back, is not what the label map says.
    """
    check_result(request.result, request.source)
    segmentation = seg.create_seg(request)
    statement = sr.create_sr(request, segmentation)
    names = tuple(profiles)
    report = EvidenceObject(kind=sr.KIND, ds=statement, encoded=encode(statement), profiles=names)
    if segmentation is None:
        return (report,)
    encoded = encode(segmentation)
    residuals = prove_encoded(encoded, request.result, request.source)
    return (
        EvidenceObject(
            kind=seg.KIND, ds=segmentation, encoded=encoded, residuals=residuals, profiles=names
        ),
        report,
    )
