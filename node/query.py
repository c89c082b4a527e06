"""What we ask an archive: how many series and instances it has of a study (C-FIND, Study Root, PS3.4 C.6.2)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node.completeness import APART
from node.errors import DeliveryError
from node.scu import associate, who
from storage.model import Asked, Destination, utcnow

#: Study Root Query/Retrieve Information Model - FIND (PS3.4 B.5).
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
#: PS3.4 Table C.4-1: a match follows; the same, but an optional key was not supported.
_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000
#: Answers after which an archive is not listened to any more: no study has as many series.
_MOST_ANSWERS = 10_000


def find_contexts() -> list[PresentationContext]:
    """What is proposed for a question."""
    return [build_context(STUDY_ROOT_FIND)]


def count_study(
    destination: Destination, study_instance_uid: str, *, calling_ae: str, timeout_s: float
) -> Asked:
    """Ask for Number of Study Related Series and Instances, and for those of each series.

    All three are optional return keys (PS3.4 Tables C.6-1, C.6-2): what an archive does not give stays unknown. A study
    that it does not have has no series there. Series of reports, results and pictures of screens are left out.

    Parameters
    ----------
    calling_ae
        Our AE title, unless the destination has one for us.
    timeout_s
        Seconds to wait for the connection, the association, and each answer.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be reached, does not take the question, or fails.
    """
    with associate(destination, find_contexts(), calling_ae, timeout_s) as assoc:
        if not assoc.accepted_contexts:
            raise DeliveryError(f"{who(destination)} does not accept C-FIND (Study Root).")
        of_study = _ask(assoc, destination, "STUDY", study_instance_uid)
        of_series = _ask(assoc, destination, "SERIES", study_instance_uid)
    found = of_study[0] if of_study else Dataset()
    counts = {
        str(ds.get("SeriesInstanceUID", "")): _number(ds, "NumberOfSeriesRelatedInstances")
        for ds in of_series
        if ds.get("Modality") not in APART
    }
    return Asked(
        of=destination.name,
        at=utcnow(),
        series=_number(found, "NumberOfStudyRelatedSeries"),
        instances=_number(found, "NumberOfStudyRelatedInstances"),
        # One that counts some series only has not said what it has.
        by_series={uid: count for uid, count in counts.items() if uid and count is not None}
        if None not in counts.values()
        else {},
    )


def _ask(
    assoc: Association, destination: Destination, level: str, study_instance_uid: str
) -> list[Dataset]:
    """The matches at one level (PS3.4 C.4.1)."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel = level
    wanted.StudyInstanceUID = study_instance_uid
    if level == "STUDY":
        wanted.NumberOfStudyRelatedSeries = None
        wanted.NumberOfStudyRelatedInstances = None
    else:
        wanted.SeriesInstanceUID = ""
        wanted.Modality = ""
        wanted.NumberOfSeriesRelatedInstances = None
    return list(_matches(assoc, destination, wanted))


def _matches(assoc: Association, destination: Destination, wanted: Dataset) -> Iterator[Dataset]:
    try:
        answers = assoc.send_c_find(wanted, STUDY_ROOT_FIND)
        for _, (status, ds) in zip(range(_MOST_ANSWERS), answers, strict=False):
            code = status.get("Status")
            if code is None:
                raise DeliveryError(
                    f"{who(destination)} ended the association, or did not answer in time."
                )
            if code in _PENDING and ds is not None:
                # Single value matching is required (C.2.2.2.1); an archive that does not keep to it is not believed.
                if ds.get("StudyInstanceUID", wanted.StudyInstanceUID) == wanted.StudyInstanceUID:
                    yield ds
            elif code not in (_SUCCESS, *_PENDING):
                raise DeliveryError(f"{who(destination)} answers C-FIND with 0x{code:04X}.")
    except RuntimeError as error:
        raise DeliveryError(f"{who(destination)} ended the association.") from error
    except ValueError as error:
        raise DeliveryError(f"{who(destination)} does not accept C-FIND (Study Root).") from error


def _number(ds: Dataset, keyword: str) -> int | None:
    try:
        value = int(ds.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if value >= 0 else None
