"""A block of bone with a hot spot, as PET and CT of one study."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from pipelines.training.phantoms.dicom import SeriesOptions, ct_series


def demo_study(seed: int) -> list[Dataset]:
    """Return the instances of both series."""
    bone = np.full((8, 24, 24), -1000, np.int16)
    bone[1:7, 6:18, 6:18] = 700
    hot = np.zeros((4, 12, 12), np.int16)
    hot[1:3, 4:8, 2:6] = 900
    pet = ct_series(_volume(hot, 6.0, 4.0), seed=seed, options=SeriesOptions(series_number=2))
    for ds in pet:
        ds.Modality = "PT"
        ds.SOPClassUID = PositronEmissionTomographyImageStorage
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return [*ct_series(_volume(bone, 3.0, 2.0), seed=seed), *pet]


def _volume(array: np.ndarray, between: float, within: float) -> hd.Volume:
    return hd.Volume.from_components(
        array=array,
        direction=np.eye(3)[:, ::-1],
        center_position=(0.0, 0.0, 0.0),
        spacing=(between, within, within),
        coordinate_system="PATIENT",
    )
