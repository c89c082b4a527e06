"""Ends its process in the middle of a run, as a crash in native code does."""

from __future__ import annotations

import os
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
    """Exit with `exit_status`; 0 is a run like any other."""
    if parameters["exit_status"]:
        os._exit(int(parameters["exit_status"]))
    return _nothing_found(inputs["ct"], model)


def _nothing_found(ct: SourceSeries, spec: SegmentSpec) -> AnalysisResult:
    volume = ct.volume
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(np.zeros(volume.spatial_shape, np.uint8)),
        segments=(Segment(number=1, spec=spec, label="Bone"),),
    )
