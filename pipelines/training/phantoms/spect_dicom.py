"""SPECT phantoms as DICOM: one multi-frame NM image (PS3.3 A.5, C.8.4), as cameras write their reconstructions."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, NuclearMedicineImageStorage

from pipelines.training.phantoms.dicom import (
    SeriesOptions,
    add_study_and_series,
    decimal,
    make_uid,
)

SPECT_SERIES = SeriesOptions(
    series_number=2,
    study_description="Phantom SPECT/CT",
    series_description="Phantom bone SPECT, reconstructed",
    body_part_examined="WHOLEBODY",
)
_SLICE_VECTOR = Tag(0x0054, 0x0080)


def write_nm_series(
    volume: hd.Volume, folder: Path, *, seed: int, options: SeriesOptions = SPECT_SERIES
) -> list[Path]:
    """Write a reconstruction as one Nuclear Medicine Image, and return its file in a list.

    Parameters
    ----------
    volume
        Counts, not negative, below 65,536, axes (slice, row, column), affine LPS in mm; any orientation.
    folder
        Where to write; made if it is not there.
    seed
        Same seed, same volume, same options: same file. The seed of its CT: same study, same frame of reference.
    options
        As for CT; `reverse` stores the last slice first. Rescale and transfer syntax do not apply.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{options.series_number:02d}-nm.dcm"
    nm_image(volume, seed=seed, options=options).save_as(path, enforce_file_format=True)
    return [path]


def nm_image(volume: hd.Volume, *, seed: int, options: SeriesOptions = SPECT_SERIES) -> Dataset:
    """Return the instance that `write_nm_series` writes, with its file meta information."""
    ds = Dataset()
    add_study_and_series(ds, seed, options)
    ds.Modality = "NM"
    ds.SOPClassUID = NuclearMedicineImageStorage
    ds.SOPInstanceUID = make_uid(seed, "instance", ds.SeriesInstanceUID, "1")
    ds.InstanceNumber = 1
    # The patient's directions stand in codes (PS3.3 C.8.4.6).
    del ds.PatientPosition
    _add_image(ds, options)
    _add_frames(ds, volume, reverse=options.reverse)
    _add_isotope(ds, options)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def of_study(options: SeriesOptions, ct: SeriesOptions) -> SeriesOptions:
    """Return options of a SPECT series in the study and frame of reference of a CT series."""
    return replace(
        options,
        patient_name=ct.patient_name,
        patient_id=ct.patient_id,
        accession_number=ct.accession_number,
        study_instance_uid=ct.study_instance_uid,
        frame_of_reference_uid=ct.frame_of_reference_uid,
        study_description=ct.study_description,
        acquired=ct.acquired,
        patient=ct.patient,
    )


def _add_image(ds: Dataset, options: SeriesOptions) -> None:
    """General Image, NM Image, NM/PET Patient Orientation, NM TOMO Acquisition (C.8.4.6 to C.8.4.14)."""
    acquired = options.acquired + timedelta(minutes=5)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    ds.AcquisitionDate = ds.ContentDate = acquired.strftime("%Y%m%d")
    ds.AcquisitionTime = ds.ContentTime = acquired.strftime("%H%M%S")
    ds.CorrectedImage = ["ATTN", "SCAT"]
    ds.ImageID = "AC"
    ds.CountsAccumulated = None
    position = _item(codes.cid19.Recumbent)
    position.PatientOrientationModifierCodeSequence = [_item(codes.cid20.Supine)]
    ds.PatientOrientationCodeSequence = [position]
    ds.PatientGantryRelationshipCodeSequence = [_item(codes.cid21.Headfirst)]
    rotation = Dataset()
    rotation.StartAngle, rotation.AngularStep, rotation.ScanArc = "0", "3", "360"
    rotation.RotationDirection = "CW"
    rotation.ActualFrameDuration = "15000"
    rotation.NumberOfFramesInRotation = 120
    ds.NumberOfRotations = 1
    ds.RotationInformationSequence = [rotation]


def _add_frames(ds: Dataset, volume: hd.Volume, *, reverse: bool) -> None:
    """NM Detector, NM Reconstruction, NM Multi-frame and the pixels (C.8.4.8, C.8.4.11, C.8.4.15)."""
    array = volume.array[::-1] if reverse else volume.array
    first = volume.shape[0] - 1 if reverse else 0
    cosines = np.asarray(volume.direction_cosines, float)
    along = np.cross(cosines[:3], cosines[3:]) @ volume.unit_vectors()[0]
    detector = Dataset()
    detector.CollimatorGridName, detector.CollimatorType = "LEHR", "PARA"
    detector.ImageOrientationPatient = [decimal(value) for value in cosines]
    corner = volume.map_indices_to_reference(np.asarray([[first, 0, 0]]))[0]
    detector.ImagePositionPatient = [decimal(value) for value in corner]
    ds.NumberOfDetectors = 1
    ds.DetectorInformationSequence = [detector]
    step = float(volume.spacing_between_slices)
    # C.8.4.15: "The sign ... determines the direction of stacking."
    sign = np.sign(along) * (-1 if reverse else 1)
    ds.SpacingBetweenSlices = decimal(sign * step)
    ds.SliceThickness = decimal(step)
    frames, ds.Rows, ds.Columns = array.shape
    ds.NumberOfFrames = frames
    ds.FrameIncrementPointer = _SLICE_VECTOR
    ds.NumberOfSlices = frames
    ds.SliceVector = list(range(1, frames + 1))
    ds.PixelSpacing = [decimal(value) for value in volume.pixel_spacing]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = np.clip(np.rint(array), 0, 65535).astype("<u2").tobytes()
    ds.WindowCenter = decimal(max(1.0, float(np.percentile(array, 99.5)) / 2))
    ds.WindowWidth = decimal(max(1.0, float(np.percentile(array, 99.5))))


def _add_isotope(ds: Dataset, options: SeriesOptions) -> None:
    """NM Isotope (C.8.4.10): technetium 99m; how much was given is not known of a phantom."""
    window, limits = Dataset(), Dataset()
    limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = "130", "151"
    window.EnergyWindowName = "Tc-99m"
    window.EnergyWindowRangeSequence = [limits]
    ds.NumberOfEnergyWindows = 1
    ds.EnergyWindowInformationSequence = [window]
    pharmaceutical = Dataset()
    pharmaceutical.Radiopharmaceutical = "99mTc-DPD"
    pharmaceutical.RadiopharmaceuticalStartTime = (options.acquired - timedelta(hours=3)).strftime(
        "%H%M%S"
    )
    pharmaceutical.RadionuclideCodeSequence = [_item(codes.cid18._99mTechnetium)]
    ds.RadiopharmaceuticalInformationSequence = [pharmaceutical]


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
