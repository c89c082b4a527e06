"""A result beside the patient's earlier one: how much each structure has changed, and in which time. Pure.

No context group of PS3.16 names a change of volume, so two codes of our own do. The interval is the standard's: Time
Point Context (TID 1502), whose event is the study compared with, the Baseline (CID 280).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.evidence.codes import MILLILITER, PRIVATE_SCHEME
from pipelines.result import AnalysisResult, Measurement, Notice
from storage.model import Prior

CHANGE: Final = Code("VOLUME-CHANGE", PRIVATE_SCHEME, "Change of volume")
RELATIVE_CHANGE: Final = Code("VOLUME-CHANGE-P", PRIVATE_SCHEME, "Relative change of volume")
#: PS3.16 TID 1502.
INTERVAL: Final = Code("128740", "DCM", "Longitudinal Temporal Offset from Event")
DAY: Final = Code("d", "UCUM", "day")
PERCENT: Final = Code("%", "UCUM", "percent")


def compare(
    result: AnalysisResult, prior: Prior | None, *, pipeline_version: str
) -> AnalysisResult:
    """The result, and besides for each structure its change since the prior: in mL, and in percent of the volume then.

    Compared is what every patient has once, so that its label is the manifest's: `Tumour 3` is a number in one result.
    What the prior did not measure has no change, and what was empty then none in percent. A notice says whether there
    was a prior.
    """
    if prior is None:
        return result
    if not prior.workitem_uid:
        within = f"of the {prior.within_days} days before"
        said = f"There is no earlier result to compare with, {within}. {prior.reason}".strip()
        return replace(result, notices=(*result.notices, Notice(code="prior-absent", message=said)))
    said = f"Compared with the result of a study {prior.interval_days} days before."
    if prior.pipeline_version != pipeline_version:
        said += f" That is of version {prior.pipeline_version}: a part of a change may be the version's."
    return replace(
        result,
        measurements=(*result.measurements, *_changes(result, prior)),
        notices=(*result.notices, Notice(code="prior-compared", message=said)),
    )


def interval(prior: Prior | None) -> tuple[Measurement, ...]:
    """The time since the prior, for the database; none where there is no prior."""
    if prior is None or not prior.workitem_uid:
        return ()
    return (Measurement(name=INTERVAL, value=float(prior.interval_days), unit=DAY),)


def _changes(result: AnalysisResult, prior: Prior) -> Iterator[Measurement]:
    now = {
        one.segment_number: one.value
        for one in reversed(result.measurements)
        if one.name == codes.SCT.Volume
        and one.unit == MILLILITER
        and one.derivation is None
        and one.site is None
    }
    for segment in result.segments:
        is_named = segment.label == segment.spec.label
        if not is_named or segment.number not in now or segment.label not in prior.volumes_ml:
            continue
        before = prior.volumes_ml[segment.label]
        change = now[segment.number] - before
        yield Measurement(name=CHANGE, value=change, unit=MILLILITER, segment_number=segment.number)
        if before > 0:
            yield Measurement(
                name=RELATIVE_CHANGE,
                value=100.0 * change / before,
                unit=PERCENT,
                segment_number=segment.number,
            )
