"""Whole, valid, tiny CT series, made by level: patient, study, series, instance. dciodvfy finds no error in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

#: Named orientations (0020,0037): direction of rows' columns, then of columns' rows, LPS.
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
#: Head first, but the image turned by 180 degrees.
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
#: Axial, tipped by 20 degrees about the x axis and turned by 30 about z.
OBLIQUE = (
    math.cos(math.radians(30)),
    math.sin(math.radians(30)),
    0.0,
    -math.sin(math.radians(30)) * math.cos(math.radians(20)),
    math.cos(math.radians(30)) * math.cos(math.radians(20)),
    math.sin(math.radians(20)),
)

_ROOT = "1.2.826.0.1.3680043.8.498."


def make_uid(*parts: object) -> str:
    """A UID, always the same for the same parts."""
    return str(generate_uid(prefix=_ROOT, entropy_srcs=[repr(part) for part in parts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the slices of a series lie."""

    rows: int = 16
    columns: int = 16
    slices: int = 4
    pixel_spacing: tuple[float, float] = (1.5, 1.5)
    slice_spacing: float = 3.0
    orientation: tuple[float, ...] = AXIAL
    origin: tuple[float, float, float] = (-12.0, -12.0, -100.0)
    #: Instance Number 1 lies at the far end of the slice normal.
    is_descending: bool = False

    @property
    def normal(self) -> tuple[float, float, float]:
        """Cross product of the two directions: where the slices go."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        x, y, z = np.cross(row, column)
        return float(x), float(y), float(z)

    def position(self, number: int) -> list[float]:
        """Image Position (Patient) of the instance of that number, from 1."""
        step = (self.slices - number if self.is_descending else number - 1) * self.slice_spacing
        return [round(o + n * step, 6) for o, n in zip(self.origin, self.normal, strict=True)]


def make_instance(
    *,
    patient: int = 1,
    study: int = 1,
    series: int = 1,
    instance: int = 1,
    geometry: Geometry = Geometry(),
    pixels: np.ndarray | None = None,
) -> Dataset:
    """One CT Image instance, with file meta information.

    Parameters
    ----------
    patient, study, series, instance
        Numbers; UIDs, names and identifiers are made of them.
    pixels
        Stored values = HU, shape (rows, columns), int16; a gradient with a disc of 700 HU when None.
    """
    ds = Dataset()
    _add_patient_and_study(ds, patient, study)
    _add_series(ds, patient, study, series)
    _add_image(ds, geometry, instance)
    ds.SOPInstanceUID = make_uid(patient, study, series, instance)
    stored = _make_pixels(geometry) if pixels is None else pixels
    ds.PixelData = stored.astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def make_series(
    *,
    patient: int = 1,
    study: int = 1,
    series: int = 1,
    geometry: Geometry = Geometry(),
    volume: np.ndarray | None = None,
) -> list[Dataset]:
    """All instances of a series, in order of Instance Number.

    Parameters
    ----------
    volume
        HU, shape (slices, rows, columns), in the order of Instance Number.
    """
    return [
        make_instance(
            patient=patient,
            study=study,
            series=series,
            instance=number,
            geometry=geometry,
            pixels=None if volume is None else volume[number - 1],
        )
        for number in range(1, geometry.slices + 1)
    ]


def save(ds: Dataset, folder: Path) -> Path:
    """Write as a DICOM file named by its SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def save_all(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write each as a DICOM file."""
    return [save(ds, folder) for ds in datasets]


def _add_patient_and_study(ds: Dataset, patient: int, study: int) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = f"Test^Patient{patient}"
    ds.PatientID = f"P{patient:04d}"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = make_uid(patient, study)
    ds.StudyID = str(study)
    ds.StudyDate = "20260102"
    ds.StudyTime = "101500"
    ds.AccessionNumber = f"A{patient:03d}{study:03d}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CT whole body"


def _add_series(ds: Dataset, patient: int, study: int, series: int) -> None:
    ds.Modality = "CT"
    ds.SeriesInstanceUID = make_uid(patient, study, series)
    ds.SeriesNumber = series
    ds.SeriesDescription = "Bone 3.0"
    ds.SeriesDate = ds.StudyDate
    ds.SeriesTime = ds.StudyTime
    ds.BodyPartExamined = "PELVIS"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = make_uid(patient, study, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "Test"
    ds.ManufacturerModelName = "Generator"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"


def _add_image(ds: Dataset, geometry: Geometry, number: int) -> None:
    ds.SOPClassUID = CTImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = number
    ds.AcquisitionNumber = 1
    ds.AcquisitionDate = ds.StudyDate
    ds.AcquisitionTime = ds.StudyTime
    ds.ContentDate = ds.StudyDate
    ds.ContentTime = ds.StudyTime
    ds.ImagePositionPatient = geometry.position(number)
    ds.ImageOrientationPatient = [round(value, 8) for value in geometry.orientation]
    ds.PixelSpacing = list(geometry.pixel_spacing)
    ds.SliceThickness = geometry.slice_spacing
    ds.KVP = "120"
    ds.Rows = geometry.rows
    ds.Columns = geometry.columns
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = 16
    ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleIntercept = "0"
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    ds.WindowCenter = "300"
    ds.WindowWidth = "1500"


def _make_pixels(geometry: Geometry) -> np.ndarray:
    rows, columns = np.mgrid[: geometry.rows, : geometry.columns]
    stored = (rows * 4 - columns).astype(np.int16)
    middle = (rows - geometry.rows / 2) ** 2 + (columns - geometry.columns / 2) ** 2
    stored[middle < (min(geometry.rows, geometry.columns) / 4) ** 2] = 700
    return stored
