"""What we ask an archive: C-FIND, and C-MOVE or C-GET of a series (PS3.4 Annex C, Study Root).

C-MOVE has the archive send to our own listener, so it must know our AE title; C-GET brings the instances over the
same association, and needs nothing of the archive but the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import cast

from pydicom import Dataset
from pynetdicom import ALL_TRANSFER_SYNTAXES, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from node.completeness import APART
from node.errors import DeliveryError
from node.receiving import Received
from node.scu import associate, who
from node.tls import Dialer
from storage.model import Asked, Destination, utcnow

#: PS3.4 Table C.6.2.1-1 and C.6.2.3-1: Study Root, FIND, MOVE and GET.
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
#: PS3.8 9.3.2.2: presentation context IDs are odd and one byte.
_MOST_CONTEXTS = 128
#: PS3.4 Tables C.4-1 to C.4-3.
_PENDING = (0xFF00, 0xFF01)
#: Answers after which an archive is not listened to any more.
_MOST_ANSWERS = 10_000
#: Sub-operations complete, one or more failures or warnings.
_PARTIAL = 0xB000


def query_contexts() -> list[PresentationContext]:
    """What is proposed to an archive that is asked; C-GET adds a storage context per SOP Class."""
    return [build_context(uid) for uid in (FIND, MOVE, GET)]


def find(  # noqa: PLR0913 - where, what, and how it is reached
    destination: Destination,
    level: str,
    keys: Mapping[str, str],
    *,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> list[Dataset]:
    """C-FIND; every match, in the archive's order.

    Parameters
    ----------
    level
        Query/Retrieve Level (0008,0052): `STUDY`, `SERIES` or `IMAGE`.
    keys
        Keyword -> value; an empty value asks for the attribute.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be asked, or answers with a failure.
    """
    with associate(
        destination, [build_context(FIND)], calling_ae, timeout_s, dialer=dialer
    ) as assoc:
        _require(assoc, destination, "C-FIND")
        return list(_matches(assoc, destination, _identifier(level, keys)))


def _matches(assoc: Association, destination: Destination, ds: Dataset) -> Iterator[Dataset]:
    try:
        answers = assoc.send_c_find(ds, FIND)
        for _, (status, found) in zip(range(_MOST_ANSWERS), answers, strict=False):
            code = _status(status, destination, "C-FIND")
            if code in _PENDING and found is not None:
                yield found
            elif code not in (0x0000, *_PENDING):
                raise DeliveryError(f"{who(destination)} answers C-FIND with 0x{code:04X}.")
    except RuntimeError as error:
        raise DeliveryError(f"{who(destination)} ended the association.") from error
    except ValueError as error:
        raise DeliveryError(f"{who(destination)} does not accept C-FIND (Study Root).") from error


def count_study(
    destination: Destination,
    study_instance_uid: str,
    *,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
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
    with associate(
        destination, [build_context(FIND)], calling_ae, timeout_s, dialer=dialer
    ) as assoc:
        _require(assoc, destination, "C-FIND")
        of_study = _count(assoc, destination, "STUDY", study_instance_uid)
        of_series = _count(assoc, destination, "SERIES", study_instance_uid)
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


def _count(
    assoc: Association, destination: Destination, level: str, study_instance_uid: str
) -> list[Dataset]:
    """The matches at one level (PS3.4 C.4.1)."""
    keys = {"StudyInstanceUID": study_instance_uid}
    if level == "STUDY":
        keys |= dict.fromkeys(("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"), "")
    else:
        names = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
        keys |= dict.fromkeys(names, "")
    # Single value matching is required (C.2.2.2.1); an archive that does not keep to it is not believed.
    return [
        ds
        for ds in _matches(assoc, destination, _identifier(level, keys))
        if ds.get("StudyInstanceUID", study_instance_uid) == study_instance_uid
    ]


def move(  # noqa: PLR0913 - where, what, and where to
    destination: Destination,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    to: str,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> None:
    """Have a series sent by C-STORE to the AE title `to`; returns when all of it was.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be asked, or not everything was sent.
    """
    ds = _series(study_instance_uid, series_instance_uid)
    with associate(
        destination, [build_context(MOVE)], calling_ae, timeout_s, dialer=dialer
    ) as assoc:
        _require(assoc, destination, "C-MOVE")
        _follow(assoc.send_c_move(ds, to, MOVE), destination, "C-MOVE")


def get(  # noqa: PLR0913 - where, what, and what for
    destination: Destination,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    sop_classes: Iterable[str],
    keep: Callable[[Received, bytes], int],
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> None:
    """Get a series over one association (PS3.4 C.4.3).

    Parameters
    ----------
    sop_classes
        What its instances may be of: the archive can send no other.
    keep
        Takes each instance, and gives the status of its C-STORE; called in the association's thread.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be asked, or not everything came.
    """
    wanted = list(dict.fromkeys(sop_classes))[: _MOST_CONTEXTS - 1]
    syntaxes = [str(uid) for uid in ALL_TRANSFER_SYNTAXES]
    contexts = [build_context(GET), *(build_context(uid, syntaxes) for uid in wanted)]

    def store(event: evt.Event) -> int:
        return keep(*_received(event, destination))

    with associate(
        destination,
        contexts,
        calling_ae,
        timeout_s,
        dialer=dialer,
        roles=[build_role(uid, scp_role=True) for uid in wanted],
        handlers=[(evt.EVT_C_STORE, store)],
    ) as assoc:
        _require(assoc, destination, "C-GET", GET)
        ds = _series(study_instance_uid, series_instance_uid)
        _follow(assoc.send_c_get(ds, GET), destination, "C-GET")


def _received(event: evt.Event, destination: Destination) -> tuple[Received, bytes]:
    request = cast(C_STORE, event.request)
    received = Received(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        # It is the archive that sends, though the association is ours.
        calling_ae=destination.called_ae,
        called_ae=event.assoc.requestor.ae_title,
    )
    return received, cast(BytesIO, request.DataSet).getvalue()


# -- what they share ------------------------------------------------------------------------------


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def _series(study_instance_uid: str, series_instance_uid: str) -> Dataset:
    return _identifier(
        "SERIES",
        {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid},
    )


def _require(assoc: Association, destination: Destination, what: str, uid: str = "") -> None:
    accepted = [str(context.abstract_syntax) for context in assoc.accepted_contexts]
    if not accepted or (uid and uid not in accepted):
        raise DeliveryError(f"{who(destination)} does not accept {what}.")


def _follow(
    answers: Iterator[tuple[Dataset, Dataset | None]], destination: Destination, what: str
) -> None:
    """Wait for the last answer of a C-MOVE or C-GET."""
    for status, _ in answers:
        code = _status(status, destination, what)
        failed = status.get("NumberOfFailedSuboperations") or 0
        if code == _PARTIAL and not failed:
            continue
        if code not in (0x0000, *_PENDING):
            lost = f": {failed} instances were not sent" if failed else ""
            raise DeliveryError(f"{who(destination)} answers {what} with 0x{code:04X}{lost}.")


def _status(status: Dataset, destination: Destination, what: str) -> int:
    code = status.get("Status")
    if code is None:
        raise DeliveryError(
            f"{who(destination)} ended the association during {what}, or did not answer in time."
        )
    return int(code)


def sop_classes_of(found: Sequence[Dataset]) -> tuple[str, ...]:
    """SOP Class UIDs that answers of level IMAGE name."""
    return tuple(dict.fromkeys(str(ds.SOPClassUID) for ds in found if ds.get("SOPClassUID")))


def _number(ds: Dataset, keyword: str) -> int | None:
    try:
        value = int(ds.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if value >= 0 else None
