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

from node.errors import DeliveryError
from node.receiving import Received
from node.scu import associate, who
from storage.archive import new_digest
from storage.model import Destination

#: PS3.4 Table C.6.2.1-1 and C.6.2.3-1: Study Root, FIND, MOVE and GET.
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
#: PS3.8 9.3.2.2: presentation context IDs are odd and one byte.
_MOST_CONTEXTS = 128
#: PS3.4 Tables C.4-1 to C.4-3.
_PENDING = (0xFF00, 0xFF01)
#: Sub-operations complete, one or more failures or warnings.
_PARTIAL = 0xB000


def query_contexts() -> list[PresentationContext]:
    """What is proposed to an archive that is asked for a study before; C-GET adds a storage context per SOP Class."""
    return [build_context(uid) for uid in (FIND, MOVE, GET)]


def find(
    destination: Destination,
    level: str,
    keys: Mapping[str, str],
    *,
    calling_ae: str,
    timeout_s: float,
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
    with associate(destination, [build_context(FIND)], calling_ae, timeout_s) as assoc:
        _require(assoc, destination, "C-FIND")
        return list(_matches(assoc, destination, _identifier(level, keys)))


def _matches(assoc: Association, destination: Destination, ds: Dataset) -> Iterator[Dataset]:
    for status, found in assoc.send_c_find(ds, FIND):
        code = _status(status, destination, "C-FIND")
        if code in _PENDING and found is not None:
            yield found
        elif code not in (0x0000, *_PENDING):
            raise DeliveryError(f"{who(destination)} answers C-FIND with 0x{code:04X}.")


def move(  # noqa: PLR0913 - where, what, and where to
    destination: Destination,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    to: str,
    calling_ae: str,
    timeout_s: float,
) -> None:
    """Have a series sent by C-STORE to the AE title `to`; returns when all of it was.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be asked, or not everything was sent.
    """
    ds = _series(study_instance_uid, series_instance_uid)
    with associate(destination, [build_context(MOVE)], calling_ae, timeout_s) as assoc:
        _require(assoc, destination, "C-MOVE")
        _follow(assoc.send_c_move(ds, to, MOVE), destination, "C-MOVE")


def get(  # noqa: PLR0913 - where, what, and what for
    destination: Destination,
    study_instance_uid: str,
    series_instance_uid: str,
    *,
    sop_classes: Iterable[str],
    keep: Callable[[Received], int],
    calling_ae: str,
    timeout_s: float,
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
        return keep(_received(event, destination))

    with associate(
        destination,
        contexts,
        calling_ae,
        timeout_s,
        roles=[build_role(uid, scp_role=True) for uid in wanted],
        handlers=[(evt.EVT_C_STORE, store)],
    ) as assoc:
        _require(assoc, destination, "C-GET", GET)
        ds = _series(study_instance_uid, series_instance_uid)
        _follow(assoc.send_c_get(ds, GET), destination, "C-GET")


def _received(event: evt.Event, destination: Destination) -> Received:
    request = cast(C_STORE, event.request)
    data = cast(BytesIO, request.DataSet).getvalue()
    digest = new_digest()
    digest.update(data)
    return Received(
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        # It is the archive that sends, though the association is ours.
        calling_ae=destination.called_ae,
        called_ae=event.assoc.requestor.ae_title,
        data=data,
        digest=digest.hexdigest(),
    )


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
        raise DeliveryError(f"{who(destination)} ended the association during {what}.")
    return int(code)


def sop_classes_of(found: Sequence[Dataset]) -> tuple[str, ...]:
    """SOP Class UIDs that answers of level IMAGE name."""
    return tuple(dict.fromkeys(str(ds.SOPClassUID) for ds in found if ds.get("SOPClassUID")))
