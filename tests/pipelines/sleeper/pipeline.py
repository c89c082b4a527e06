"""Takes its time, then finds nothing: a run to be interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

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
    """Make the file `mark`, then sleep `seconds`."""
    if parameters["mark"]:
        Path(str(parameters["mark"])).touch()
    time.sleep(float(parameters["seconds"]))
    return _nothing_found(inputs["ct"], model)


def _nothing_found(ct: SourceSeries, spec: SegmentSpec) -> AnalysisResult:
    volume = ct.volume
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(np.zeros(volume.spatial_shape, np.uint8)),
        segments=(Segment(number=1, spec=spec, label="Bone"),),
    )
