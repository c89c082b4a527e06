"""Takes memory step by step, more than its manifest allows."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from pipelines.manifest import SegmentSpec
from pipelines.result import AnalysisResult, LoadContext, Segment, SourceSeries
from storage.model import Parameters


def load(context: LoadContext) -> SegmentSpec:
    """No weights: what is kept is the segment's description."""
    return context.manifest.segments[0]


def run(
    model: SegmentSpec, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Hold `megabytes` for a moment."""
    eaten = []
    for _ in range(int(parameters["megabytes"]) // 50):
        eaten.append(np.ones(50_000_000, np.uint8))
        time.sleep(0.02)
    return _nothing_found(inputs["ct"], model)


def _nothing_found(ct: SourceSeries, spec: SegmentSpec) -> AnalysisResult:
    volume = ct.volume
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(np.zeros(volume.spatial_shape, np.uint8)),
        segments=(Segment(number=1, spec=spec, label="Bone"),),
    )
