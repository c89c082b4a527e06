"""Files of one series -> a volume in patient space: `read_series`.

A series is single-frame images, one enhanced multi-frame image (`enhanced`), or one multi-frame reconstruction of
nuclear medicine (`reconstruction`).

This is the door of the pipelines: what passes has pixels, modality values and a regular place in space, and what
does not is refused with a code and a sentence that names the instance. Behind it nobody checks again.

Pixels under Pixel Padding Value (0028,0120) stay what the rescale makes of them: the header that says so is kept,
and only a pipeline knows what is outside for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from highdicom import Volume
from pydicom import Dataset

from pipelines.declared import demand_true_series, demand_true_sizes
from pipelines.enhanced import frame_headers, is_enhanced
from pipelines.errors import InputError, shown
from pipelines.gaps import longest_run
from pipelines.geometry import Grid, fit_grid
from pipelines.pixels import frame_values, modality_values
from pipelines.reading import READ_ERRORS, is_uid, read_file
from pipelines.reconstruction import is_nuclear, place_frames
from pipelines.result import Notice, SourceSeries

#: PS3.3 C.7.6.3.1.2: what a sentence may repeat; another value of a damaged file may be a name.
_COLOURS = frozenset(
    ("PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420",
     "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "MONOCHROME1", "MONOCHROME2")
)  # fmt: skip
#: What is read of a header besides its pixels: parsed at the door, where a damaged element has an answer.
_HEADER = (
    "Rows",
    "Columns",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
)


def read_series(files: Sequence[Path], *, allow_gaps: bool = False) -> SourceSeries:
    """Read the images of one series as a volume.

    Parameters
    ----------
    files
        DICOM files of one series, in any order and any transfer syntax that can be decoded: single-frame images, one
        enhanced CT, MR or PET image, or one multi-frame NM image (RECON TOMO).
    allow_gaps
        Of single-frame images that lack slices between others, read the longest run without a gap.

    Returns
    -------
    SourceSeries
        Modality values (PS3.3 C.11.1; NM: what the camera calls its values), int16 where that is exact, else float32;
        axes (slice, row, column), slices by increasing position along the normal (row x column cosines); affine in LPS
        mm. Pixel padding is kept.

    Raises
    ------
    InputError
        When the files are no volume; the code says why, the sentence names the instance. Tolerances are those of
        `pipelines.geometry`.
    """
    datasets = [_read(path, number) for number, path in enumerate(files, start=1)]
    if any(is_nuclear(ds) for ds in datasets):
        return _read_reconstruction(datasets)
    if any(is_enhanced(ds) for ds in datasets):
        return _read_enhanced(datasets)
    if len(files) < 2:
        raise InputError(
            f"The series has {len(files)} image(s): a volume needs two at least.",
            code="input-too-few-slices",
        )
    _demand_one_series(datasets)
    datasets, grid, gap = _place(datasets, allow_gaps=allow_gaps)
    ordered = [datasets[index] for index in grid.order]
    _demand_readable(ordered[0])
    demand_true_series(ordered)
    volume = Volume(
        array=modality_values(ordered),
        affine=grid.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=ordered[0].get("FrameOfReferenceUID") or None,
    )
    return SourceSeries(volume=volume, datasets=tuple(ordered), gap=gap)


def _place(
    datasets: list[Dataset], *, allow_gaps: bool
) -> tuple[list[Dataset], Grid, Notice | None]:
    """The slices that are read, where they lie, and what is left out."""
    try:
        return datasets, fit_grid(datasets), None
    except InputError as error:
        # All else that could be wrong with them is asked before; steps of two slices and of one look irregular.
        is_gap = error.code in {"input-missing-slices", "input-irregular-spacing"}
        found = longest_run(datasets) if allow_gaps and is_gap else None
        if found is None:
            raise
    chosen, gap = found
    return chosen, fit_grid(chosen), gap


def _read_reconstruction(datasets: Sequence[Dataset]) -> SourceSeries:
    """One multi-frame object is the whole series; each frame gets a header as a slice of its own would have."""
    ds = _only(datasets)
    placed = place_frames(ds)
    values = frame_values(ds)[[number - 1 for number in placed.frame_numbers]]
    volume = Volume(
        array=values,
        affine=placed.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=ds.get("FrameOfReferenceUID") or None,
    )
    slices = []
    for index in range(len(placed.frame_numbers)):
        one = Dataset()
        one.update(ds)
        one.file_meta = ds.file_meta
        one.ImageOrientationPatient = [f"{value:.10g}" for value in placed.orientation]
        one.ImagePositionPatient = [f"{value:.10g}" for value in placed.position(index)]
        slices.append(one)
    return SourceSeries(
        volume=volume, datasets=tuple(slices), frame_numbers=tuple(placed.frame_numbers)
    )


def _read_enhanced(datasets: Sequence[Dataset]) -> SourceSeries:
    """One enhanced image is the whole series."""
    ds = _only(datasets)
    headers = frame_headers(ds)
    grid = fit_grid(headers)
    volume = Volume(
        array=frame_values(ds, headers)[list(grid.order)],
        affine=grid.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=ds.get("FrameOfReferenceUID") or None,
    )
    return SourceSeries(
        volume=volume,
        datasets=tuple(headers[number] for number in grid.order),
        frame_numbers=tuple(number + 1 for number in grid.order),
    )


def _only(datasets: Sequence[Dataset]) -> Dataset:
    """The image that is a whole volume."""
    if len(datasets) > 1:
        raise InputError(
            f"The series has {len(datasets)} multi-frame images, each a volume: send the one that is meant.",
            code="input-several-volumes",
        )
    _demand_readable(datasets[0])
    return datasets[0]


def _read(path: Path, number: int) -> Dataset:
    try:
        ds = read_file(path)
        # The header is parsed on access; a file without these is no composite instance at all.
        _demand_uids(ds)
        _ = [ds.get(keyword) for keyword in _HEADER]
        _demand_slice(ds)
        demand_true_sizes(ds)
    except READ_ERRORS as error:
        # The name of the file may name the patient: say its place in the list instead.
        raise InputError(
            f"File {number} of the series cannot be read as DICOM ({type(error).__name__}).",
            code="input-unreadable",
        ) from error
    return ds


def _demand_uids(ds: Dataset) -> None:
    """Sentences, references and names of ours repeat them, and may not repeat what else a damaged file has there."""
    named = (ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, ds.StudyInstanceUID)
    frame_of_reference = ds.get("FrameOfReferenceUID") or ds.SOPClassUID
    if not all(is_uid(uid) for uid in (*named, frame_of_reference, ds.file_meta.TransferSyntaxUID)):
        raise ValueError("a UID is none")


def _demand_readable(ds: Dataset) -> None:
    """The first slice says whose all evidence is: a damaged element of it is refused, not left out."""
    try:
        for _ in ds:
            pass
    except READ_ERRORS as error:
        raise InputError(
            f"The header of instance {shown(ds.SOPInstanceUID)} has a damaged element ({type(error).__name__}).",
            code="input-unreadable",
        ) from error


def _demand_slice(ds: Dataset) -> None:
    """One instance must be a grey single-frame image that can be part of a volume."""
    uid = shown(ds.SOPInstanceUID)
    sizes = (ds.get("Rows"), ds.get("Columns"))
    if "PixelData" not in ds or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise InputError(
            f"Instance {uid} is no image: it has no Rows, Columns or Pixel Data.",
            code="input-no-pixels",
        )
    several = "SharedFunctionalGroupsSequence" in ds or int(ds.get("NumberOfFrames") or 1) != 1
    if several and not is_nuclear(ds) and not is_enhanced(ds):
        raise InputError(
            f"Instance {uid} is a multi-frame image; of these only enhanced CT, MR and PET and reconstructions of "
            "nuclear medicine are read.",
            code="input-multi-frame",
        )
    photometric = str(ds.get("PhotometricInterpretation", ""))
    if ds.get("SamplesPerPixel") != 1 or not photometric.startswith("MONOCHROME"):
        said = photometric if photometric in _COLOURS else "none of the standard's"
        raise InputError(
            f"Instance {uid} is no grey image (Photometric Interpretation: {said}).",
            code="input-colour",
        )
    # PS3.3 C.8.2.1.1.1: value 3 of Image Type.
    if "LOCALIZER" in (ds.get("ImageType") or ()):
        raise InputError(f"Instance {uid} is a localizer (Image Type).", code="input-localizer")
    if (
        ds.get("Modality") == "CT"
        and not is_enhanced(ds)
        and "ModalityLUTSequence" not in ds
        and (ds.get("RescaleSlope") is None or ds.get("RescaleIntercept") is None)
    ):
        # PS3.3 C.8.2.1: Type 1 in CT; without them the values are no Hounsfield units.
        raise InputError(
            f"Instance {uid} is CT without Rescale Slope and Intercept.", code="input-no-rescale"
        )


def _demand_one_series(datasets: Sequence[Dataset]) -> None:
    """Attributes that all instances of a volume share."""
    first = datasets[0]
    for keyword, code in (
        ("SeriesInstanceUID", "input-mixed-series"),
        ("Rows", "input-mixed-matrix"),
        ("Columns", "input-mixed-matrix"),
        ("FrameOfReferenceUID", "input-mixed-frame-of-reference"),
    ):
        for ds in datasets:
            if ds.get(keyword) != first.get(keyword):
                raise InputError(
                    f"Instance {shown(ds.SOPInstanceUID)} has another {keyword} than "
                    f"instance {shown(first.SOPInstanceUID)}.",
                    code=code,
                )
    twice = _first_repeated(str(ds.SOPInstanceUID) for ds in datasets)
    if twice is not None:
        raise InputError(
            f"Instance {shown(twice)} is given twice.", code="input-duplicate-instance"
        )


def _first_repeated(uids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for uid in uids:
        if uid in seen:
            return uid
        seen.add(uid)
    return None
