"""The gate before sending: an object that is not what its IOD, IHE AIR and its displays demand does not leave.

What is checked is what we write, not what a hospital gave us: an Accession Number of a character too many came with the
study, and is no reason to keep its result back. That is why dciodvfy, which knows the IODs attribute by attribute, is
not asked here but of every kind of object in the tests: it judges the source's values too, its release of a site may
be older than the object (LABELMAP is of 2024), and its time grows with the square of the frames (4 s for 1,000 of
them, a minute and a half for 5,000).
"""

from __future__ import annotations

from itertools import chain, islice

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from pipelines.errors import UnprovenError
from pipelines.evidence.checks import COMMON, Check
from pipelines.evidence.seg_checks import LABEL_MAP_SEGMENTATION_STORAGE, SEGMENTATION
from pipelines.evidence.sr_checks import REPORT

#: A fault of every frame is said of so many.
_MOST_FAULTS = 5


def checks_of(ds: Dataset) -> tuple[Check, ...]:
    """What an object of its SOP Class must pass."""
    match ds.get("SOPClassUID"):
        case value if value in (SegmentationStorage, LABEL_MAP_SEGMENTATION_STORAGE):
            return (*COMMON, *SEGMENTATION)
        case value if value == Comprehensive3DSRStorage:
            return (*COMMON, *REPORT)
    return COMMON


def check_iod(ds: Dataset) -> tuple[str, ...]:
    """Hold an object to what it must be.

    Parameters
    ----------
    ds
        As it was read back from its file (`readback.read_back`); Pixel Data is not looked at.

    Returns
    -------
    tuple of str
        Names of the checks it passed.

    Raises
    ------
    UnprovenError
        `evidence-invalid`, naming the checks with their clauses, and the attributes that fail them.
    """
    checks = checks_of(ds)
    failed = [(check, list(islice(check.faults(ds), _MOST_FAULTS))) for check in checks]
    sentences = chain.from_iterable(
        [f"{check.name} ({check.clause}): {'; '.join(faults)}"]
        for check, faults in failed
        if faults
    )
    said = ". ".join(sentences)
    if said:
        raise UnprovenError(
            f"The {ds.get('Modality', 'object')} that was made is not valid. {said}.",
            code="evidence-invalid",
        )
    return tuple(check.name for check in checks)
