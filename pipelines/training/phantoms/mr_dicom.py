"""MR phantoms as DICOM: a valid MR series of a patient who does not exist."""

from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.training.phantoms.mr import MrPhantom

#: Attributes of `ct_series` that PS3.3 A.4 (MR Image) does not have.
_OF_CT = (
    "KVP",
    "ConvolutionKernel",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
)


def mr_series(
    phantom: MrPhantom, *, seed: int, options: SeriesOptions | None = None
) -> list[Dataset]:
    """Return an MR phantom as MR Image Storage instances, one for each slice, with their file meta information.

    Parameters
    ----------
    phantom
        Any direction of slices.
    seed
        Identifiers follow from it.
    options
        Identifiers, descriptions, order; None: described by its sequence.
    """
    given = options or SeriesOptions(
        series_description=_description(phantom),
        study_description="Phantom MR",
        body_part_examined="SPINE",
    )
    ours = replace(
        given,
        rescale_intercept=0.0,
        patient=given.patient or phantom.patient,
        slice_thickness=given.slice_thickness or phantom.thickness_mm,
    )
    datasets = ct_series(phantom.image, seed=seed, options=ours)
    for ds in datasets:
        _make_mr(ds, phantom)
    return datasets


def write_mr_series(
    phantom: MrPhantom, folder: Path, *, seed: int, options: SeriesOptions | None = None
) -> list[Path]:
    """Write what `mr_series` returns, one file per slice, by InstanceNumber."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in mr_series(phantom, seed=seed, options=options):
        path = folder / f"{int(ds.SeriesNumber):02d}-{int(ds.InstanceNumber):04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _description(phantom: MrPhantom) -> str:
    suppressed = " FS" if phantom.weighting.fat_suppressed else ""
    return f"T1 SE{suppressed}{' +C' if phantom.weighting.enhanced else ''}"


def _make_mr(ds: Dataset, phantom: MrPhantom) -> None:
    """Replace what is CT's by what is MR's (PS3.3 C.8.3.1), in place."""
    for keyword in _OF_CT:
        if keyword in ds:
            del ds[keyword]
    weighting = phantom.weighting
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    ds.ScanningSequence, ds.SequenceVariant = "SE", "SK"
    ds.ScanOptions = "FS" if weighting.fat_suppressed else ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime = f"{weighting.tr:.1f}", f"{weighting.te:.1f}"
    ds.EchoTrainLength = 1
    ds.MagneticFieldStrength = f"{weighting.field:.1f}"
    ds.ImagedNucleus = "1H"
    ds.FlipAngle = "90"
    ds.SpacingBetweenSlices = f"{float(phantom.image.spacing[0]):.10g}"[:16]
    # Values are never negative.
    ds.PixelRepresentation = 0
    if weighting.enhanced:
        ds.ContrastBolusAgent = "Gadopentetate dimeglumine"
        ds.ContrastBolusRoute = "IV"
