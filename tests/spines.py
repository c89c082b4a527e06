"""A spine of boxes and balls in MR values, on any grid, and a network that sees it: what tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import torch
from pydicom import Dataset

from pipelines.inference import engine_of
from pipelines.manifest import read_manifest
from pipelines.mr_spine_tumor.pipeline import TumourModel
from pipelines.mr_spine_tumor.preprocessing import reference
from pipelines.registry import BUILT_IN
from pipelines.result import SourceSeries
from pipelines.training.phantoms.dicom import ct_series

MANIFEST = read_manifest(BUILT_IN / "mr_spine_tumor")
PARAMETERS: dict[str, Any] = dict(MANIFEST.parameters)
#: What tissue, marrow and tumours measure in the scene: tissue is most of it, and what normalisation calls bright.
TISSUE, MARROW, TUMOUR = 300, 450, 600
#: Middles (LPS, mm) and radii (mm) of the balls that are tumours: the first in a vertebra, the other beside the canal.
BALLS = (((0.0, 0.0, 16.0), 10.0), ((18.0, 26.0, -32.0), 8.0))


def _sees_brightness(image: torch.Tensor) -> torch.Tensor:
    """Logits of a network that takes bright for vertebrae and brightest for tumours."""
    value = (image + 1) * TISSUE
    middle, high = (MARROW + TISSUE) / 2, (MARROW + TUMOUR) / 2
    tumour = (value - high) / 20
    vertebra = torch.minimum((value - middle) / 20, -tumour)
    return torch.cat([torch.zeros_like(value), vertebra, tumour], dim=1)


def model_that_sees_brightness() -> TumourModel:
    """What `load` makes, with a network that is exact on `scene`."""
    network = engine_of(torch.nn.Conv2d(1, 3, 1))
    return TumourModel(network=replace(network, infer=_sees_brightness), manifest=MANIFEST)


def grid(orientation: str = "LFP") -> hd.VolumeGeometry:
    """Slices as they are in spine MR, in any direction and order."""
    shape, spacing = (25, 160, 160), (4.0, 1.0, 1.0)
    upright = {"L": "LFP", "R": "LFP", "F": "FPL", "H": "FPL", "P": "PFL", "A": "PFL"}
    straight = hd.VolumeGeometry.from_components(
        shape,
        spacing=spacing,
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation=upright[orientation[0]],
    )
    return straight.to_patient_orientation(orientation)


def scene(geometry: hd.VolumeGeometry, balls: Sequence[Any] = BALLS) -> hd.Volume:
    """Vertebrae of 40 x 30 x 24 mm with gaps of 8 mm, and tumours, in tissue: int16."""
    index = np.stack(np.meshgrid(*(range(n) for n in geometry.spatial_shape), indexing="ij"), -1)
    points = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    x, y, z = np.moveaxis(points, -1, 0)
    array = np.full(geometry.spatial_shape, TISSUE, np.int16)
    column = (np.abs(x) < 20) & (np.abs(y) < 15) & (np.abs(z) < 72)
    array[column & (np.mod(z, 32) > 4) & (np.mod(z, 32) < 28)] = MARROW
    for centre, radius in balls:
        array[np.linalg.norm(points - centre, axis=-1) < radius] = TUMOUR
    volume = hd.Volume(array=array, affine=geometry.affine, coordinate_system="PATIENT")
    assert reference(array) == TISSUE
    return volume


def source(volume: hd.Volume, **attributes: Any) -> SourceSeries:
    """A series of a volume whose header says that it is T1-weighted after gadolinium, but for what is given."""
    said: dict[str, Any] = {
        "Modality": "MR",
        "SeriesDescription": "T1 SE",
        "ContrastBolusAgent": "Gadobutrol",
        "RepetitionTime": "550",
        "EchoTime": "12",
        "ScanningSequence": "SE",
        **attributes,
    }
    datasets = ct_series(volume, seed=11)
    for ds in datasets:
        _say(ds, said)
    return SourceSeries(volume=volume, datasets=tuple(datasets))


def _say(ds: Dataset, said: dict[str, Any]) -> None:
    del ds.PixelData
    for keyword, value in said.items():
        setattr(ds, keyword, value)
