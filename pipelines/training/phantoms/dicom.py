"""Phantoms as DICOM: a valid CT series of a patient who does not exist."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from pipelines.training.phantoms.patient import Patient, Sex

_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesOptions:
    """What a series says about itself; identifiers left out follow from the seed."""

    patient_name: str = "Phantom^Procedural"
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    frame_of_reference_uid: str | None = None
    series_number: int = 1
    study_description: str = "Phantom CT"
    series_description: str = "Phantom, axial"
    body_part_examined: str = "ABDOMEN"
    transfer_syntax: UID = field(default=ExplicitVRLittleEndian)
    reverse: bool = False  #: InstanceNumber 1 is the last slice of the volume
    rescale_slope: float = 1.0
    rescale_intercept: float = -1024.0
    acquired: datetime = datetime(2026, 1, 5, 9, 30)
    patient: Patient | None = None  #: whose sex, age and height the header gives
    slice_thickness: float | None = None  #: mm; None: the distance of the slices
    padding: int | None = None  #: HU that stand for no image, outside of the circle


def write_ct_series(
    volume: hd.Volume, folder: Path, *, seed: int, options: SeriesOptions | None = None
) -> list[Path]:
    """Write a volume as CT Image Storage instances, one file per slice.

    Parameters
    ----------
    volume
        int16, HU, axes (slice, row, column), affine LPS in mm; any orientation. Turn it with
        `flip_spatial` or give it an oblique affine, and the instances are so.
    folder
        Where to write; made if it is not there.
    seed
        Same seed, same volume, same options: same files.
    options
        Identifiers, encoding and order.

    Returns
    -------
    list of pathlib.Path
        The files by InstanceNumber.
    """
    options = options or SeriesOptions()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(ct_series(volume, seed=seed, options=options), start=1):
        path = folder / f"{options.series_number:02d}-{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def ct_series(
    volume: hd.Volume, *, seed: int, options: SeriesOptions | None = None
) -> list[Dataset]:
    """Return the instances that `write_ct_series` writes, with their file meta information."""
    options = options or SeriesOptions()
    order = range(volume.shape[0])
    slices = reversed(order) if options.reverse else order
    return [
        _instance(volume, index, number, seed, options)
        for number, index in enumerate(slices, start=1)
    ]


def _instance(
    volume: hd.Volume, index: int, number: int, seed: int, options: SeriesOptions
) -> Dataset:
    ds = Dataset()
    add_study_and_series(ds, seed, options)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = make_uid(seed, "instance", ds.SeriesInstanceUID, str(number))
    ds.InstanceNumber = number
    ds.AcquisitionNumber = 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    acquired = options.acquired + timedelta(milliseconds=100 * number)
    ds.AcquisitionDate = ds.ContentDate = acquired.strftime("%Y%m%d")
    ds.AcquisitionTime = ds.ContentTime = acquired.strftime("%H%M%S.%f")
    ds.KVP = "120"
    ds.ConvolutionKernel = "PHANTOM"
    _add_plane(ds, volume, index, options.slice_thickness)
    _add_pixels(ds, volume, index, options)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if options.transfer_syntax in _UNCOMPRESSED:
        ds.file_meta.TransferSyntaxUID = options.transfer_syntax
    else:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(options.transfer_syntax, generate_instance_uid=False)
    return ds


def add_study_and_series(ds: Dataset, seed: int, options: SeriesOptions) -> None:
    """Add patient, study, series, equipment and frame of reference of a CT series."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = options.patient_name
    ds.PatientID = options.patient_id or f"PHANTOM-{seed:06d}"
    ds.PatientBirthDate = "19600101"
    ds.PatientSex = "O"
    if options.patient is not None:
        ds.PatientBirthDate = f"{options.acquired.year - options.patient.age}0101"
        ds.PatientSex = {Sex.FEMALE: "F", Sex.MALE: "M"}[options.patient.sex]
        ds.PatientAge = f"{options.patient.age:03d}Y"
        ds.PatientSize = decimal(round(options.patient.height_m, 2))
    ds.StudyInstanceUID = options.study_instance_uid or make_uid(seed, "study")
    ds.StudyDate = options.acquired.strftime("%Y%m%d")
    ds.StudyTime = options.acquired.strftime("%H%M%S")
    ds.StudyID = f"{seed % 10**8}"
    ds.StudyDescription = options.study_description
    ds.AccessionNumber = options.accession_number or f"PH{seed % 10**10}"
    ds.ReferringPhysicianName = ""
    ds.Modality = "CT"
    ds.SeriesInstanceUID = options.series_instance_uid or make_uid(
        seed, "series", ds.StudyInstanceUID, str(options.series_number)
    )
    ds.SeriesNumber = options.series_number
    ds.SeriesDate, ds.SeriesTime = ds.StudyDate, ds.StudyTime
    ds.SeriesDescription = options.series_description
    ds.BodyPartExamined = options.body_part_examined
    ds.PatientPosition = "HFS"
    ds.Manufacturer = "OsteoNode phantom"
    ds.ManufacturerModelName = "Phantom"
    ds.FrameOfReferenceUID = options.frame_of_reference_uid or make_uid(
        seed, "frame of reference", ds.StudyInstanceUID
    )
    ds.PositionReferenceIndicator = ""


def _add_plane(ds: Dataset, volume: hd.Volume, index: int, thickness: float | None) -> None:
    # PS3.3 C.7.6.2: row direction first, that is the direction of increasing column index.
    cosines = volume.direction_cosines
    ds.ImageOrientationPatient = [decimal(value) for value in cosines]
    position = volume.map_indices_to_reference(np.asarray([[index, 0, 0]]))[0]
    ds.ImagePositionPatient = [decimal(value) for value in position]
    ds.PixelSpacing = [decimal(value) for value in volume.pixel_spacing]
    ds.SliceThickness = decimal(thickness or volume.spacing_between_slices)
    ds.SliceLocation = decimal(float(position @ volume.unit_vectors()[0]))


def _add_pixels(ds: Dataset, volume: hd.Volume, index: int, options: SeriesOptions) -> None:
    stored = np.rint(
        (volume.array[index].astype(np.float64) - options.rescale_intercept) / options.rescale_slope
    )
    limits = np.iinfo(np.int16)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = volume.array.shape[1:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleSlope = decimal(options.rescale_slope)
    ds.RescaleIntercept = decimal(options.rescale_intercept)
    ds.RescaleType = "HU"
    ds.WindowCenter, ds.WindowWidth = "300", "1500"
    if options.padding is not None:
        value = (options.padding - options.rescale_intercept) / options.rescale_slope
        ds.add_new("PixelPaddingValue", "SS", round(value))  # PS3.3 C.7.5.1.1.2: as stored
    ds.PixelData = np.clip(stored, limits.min, limits.max).astype("<i2").tobytes()


def decimal(value: float) -> str:
    """Return a Decimal String of at most 16 characters (PS3.5 6.2)."""
    return f"{value + 0.0:.10g}"[:16]


def make_uid(seed: int, *names: str) -> UID:
    """Return a UID, always the same for the same seed and names."""
    return generate_uid(entropy_srcs=["phantom", str(seed), *names])
