"""Breaks its contract in the way that `bug` names."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.errors import Refused
from pipelines.manifest import SegmentSpec
from pipelines.result import AnalysisResult, LoadContext, Segment, SourceSeries
from storage.model import Parameters


class NoBone(Refused):
    """A class the node cannot import."""

    code = "no-bone"


def load(context: LoadContext) -> SegmentSpec:
    """No weights: what is kept is the segment's description."""
    return context.manifest.segments[0]


def run(
    model: SegmentSpec, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Do what `bug` says."""
    ct = inputs["ct"]
    if parameters["bug"] == "raise":
        name = ct.datasets[0].PatientName
        raise ValueError(f"cannot work on {name}")
    if parameters["bug"] == "own refusal":
        raise NoBone("There is no bone in this series.")
    if parameters["bug"] == "memory":
        raise MemoryError("cannot allocate")
    if parameters["bug"] == "descriptors":
        _read_without_a_descriptor()
    # bug = "shape"
    volume = ct.volume[1:]
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(np.zeros(volume.spatial_shape, np.uint8)),
        segments=(Segment(number=1, spec=model, label="Bone"),),
    )


def _read_without_a_descriptor() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        Path(__file__).read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
