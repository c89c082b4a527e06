"""Bone by a threshold in HU, with its volume and mean: the smallest real pipeline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydicom.sr.coding import Code

from pipelines.errors import Refused
from pipelines.manifest import SegmentSpec
from pipelines.result import (
    AnalysisResult,
    LoadContext,
    Measurement,
    Notice,
    Segment,
    SourceSeries,
)
from storage.model import Parameters

VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
MILLILITER = Code("mL", "UCUM", "milliliter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")


def load(context: LoadContext) -> SegmentSpec:
    """No weights: what is kept is the segment's description."""
    return context.manifest.segments[0]


def run(
    model: SegmentSpec, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Voxels at or above `threshold_hu`."""
    volume = inputs["ct"].volume
    threshold = float(parameters["threshold_hu"])
    if threshold > 3071:
        raise Refused(f"No voxel of a CT can reach {threshold:g} HU.", code="threshold-too-high")
    mask = volume.array >= threshold
    measurements = [
        Measurement(
            name=VOLUME,
            value=float(np.count_nonzero(mask) * volume.voxel_volume / 1000),
            unit=MILLILITER,
            segment_number=1,
        )
    ]
    notices = []
    if mask.any():
        measurements.append(
            Measurement(
                name=ATTENUATION,
                value=float(volume.array[mask].mean()),
                unit=HOUNSFIELD,
                derivation=MEAN,
                segment_number=1,
            )
        )
    else:
        notices.append(Notice(code="no-bone", message="No voxel reaches the threshold."))
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(mask.astype(np.uint8)),
        segments=(Segment(number=1, spec=model, label="Bone"),),
        measurements=tuple(measurements),
        notices=tuple(notices),
    )
