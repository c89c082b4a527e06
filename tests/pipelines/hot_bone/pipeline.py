"""High uptake in bone: the smallest real pipeline of two inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from highdicom import Volume
from pydicom.sr.coding import Code
from scipy.ndimage import affine_transform

from pipelines.manifest import SegmentSpec
from pipelines.result import AnalysisResult, LoadContext, Measurement, Segment, SourceSeries
from storage.model import Parameters

VOLUME = Code("118565006", "SCT", "Volume")
MILLILITER = Code("mL", "UCUM", "milliliter")


def load(context: LoadContext) -> SegmentSpec:
    """No weights: what is kept is the segment's description."""
    return context.manifest.segments[0]


def run(
    model: SegmentSpec, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Hot voxels that are bone; hot voxels without a CT; bone without a PET."""
    role = "pet" if "pet" in inputs else "ct"
    volume = inputs[role].volume
    mask = np.ones(volume.spatial_shape, bool)
    if "pet" in inputs:
        mask &= inputs["pet"].volume.array >= float(parameters["uptake"])
    if "ct" in inputs:
        mask &= _onto(volume, inputs["ct"].volume) >= float(parameters["threshold_hu"])
    return AnalysisResult(
        role=role,
        label_map=volume.with_array(mask.astype(np.uint8)),
        segments=(Segment(number=1, spec=model, label="Hot bone"),),
        measurements=(
            Measurement(
                name=VOLUME,
                value=float(np.count_nonzero(mask) * volume.voxel_volume / 1000),
                unit=MILLILITER,
                segment_number=1,
            ),
        ),
    )


def _onto(grid: Volume, moving: Volume) -> np.ndarray:
    """`moving` on the grid, nearest neighbour; air where it does not reach."""
    to_moving = np.linalg.inv(moving.affine) @ grid.affine
    return affine_transform(
        moving.array.astype(np.float32),
        to_moving,
        output_shape=grid.spatial_shape,
        order=0,
        cval=-1000.0,
    )
