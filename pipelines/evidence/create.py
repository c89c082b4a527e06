"""A result -> the DICOM instances that say it: `create_evidence`."""

from __future__ import annotations

from pipelines.evidence import seg, sr
from pipelines.evidence.proof import encode, prove_encoded
from pipelines.evidence.request import EvidenceObject, EvidenceRequest, check_result


def create_evidence(request: EvidenceRequest) -> tuple[EvidenceObject, ...]:
    """Make SEG and SR of a result, and prove the SEG.

    The same request makes the same bytes. When no segment has a voxel there is no SEG, and the SR says so.

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
    report = EvidenceObject(kind=sr.KIND, ds=statement, encoded=encode(statement))
    if segmentation is None:
        return (report,)
    encoded = encode(segmentation)
    residuals = prove_encoded(encoded, request.result, request.source)
    return (
        EvidenceObject(kind=seg.KIND, ds=segmentation, encoded=encoded, residuals=residuals),
        report,
    )
