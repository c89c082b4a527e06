"""What the network part of the statement says: read from the listener, the sender and the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydicom.uid import UID
from pynetdicom.sop_class import _STORAGE_CLASSES

from node import commitment, dimse, door, header, part10, query, receiving, scp, scu
from node.config import Config

#: PS3.7 Annex A.2.1.
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A UID of PS3.6 Annex A and its name."""

    uid: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SopClass:
    """What the node does with instances of a SOP Class."""

    uid: str
    name: str
    #: Whether we make instances of it and send them.
    created: bool
    #: Whether the listener accepts it.
    scp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A DIMSE status, or a range of them, and what it means on our side."""

    first: int
    last: int
    meaning: str
    #: When we return it, or what we do on receiving it.
    behavior: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An association parameter on both sides; empty where a side has none."""

    name: str
    acceptor: str
    initiator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentationContext:
    """A presentation context as proposed (PS3.8 9.3.2.2)."""

    abstract_syntax: Named
    transfer_syntaxes: tuple[Named, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Everything that goes over an association."""

    ae_title: str
    host: str
    port: int
    #: Where it listens, and whether with TLS.
    listeners: str
    parameters: tuple[Parameter, ...]
    #: (rejection, when it happens) under this configuration.
    rejections: tuple[tuple[str, str], ...]
    sop_classes: tuple[SopClass, ...]
    accepted_transfer_syntaxes: tuple[Named, ...]
    proposed: tuple[PresentationContext, ...]
    store_scp: tuple[Status, ...]
    store_scu: tuple[Status, ...]


def named(uid: str) -> Named:
    """A UID with its name in PS3.6; of one that pydicom does not know yet, by its keyword; private ones stay."""
    name = UID(uid).name
    if name == uid:
        keywords = {known: keyword for keyword, known in _STORAGE_CLASSES.items()}
        # Camel case: `LabelMapSegmentationStorage`.
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", keywords.get(uid, uid))
    return Named(uid=uid, name=name)


def read_network(config: Config, made: Sequence[tuple[str, str]]) -> Network:
    """What the node does on the network.

    Parameters
    ----------
    made
        (SOP Class UID, Transfer Syntax UID) of the objects that the node makes.
    """
    accepted = scp.accepted_sop_classes(config)
    created = {sop_class for sop_class, _ in made}
    return Network(
        ae_title=config.node.ae_title,
        host=config.node.host,
        port=config.node.port,
        listeners=_listeners(config),
        parameters=_parameters(config),
        rejections=_rejections(config),
        sop_classes=tuple(
            SopClass(
                uid=one.uid, name=one.name, created=one.uid in created, scp=one.uid in accepted
            )
            for one in sorted(map(named, accepted | created), key=lambda one: (one.name, one.uid))
        ),
        accepted_transfer_syntaxes=tuple(
            named(uid) for uid in sorted(scp.transfer_syntaxes(), key=_numbers)
        ),
        proposed=_proposed(made),
        store_scp=_store_scp(),
        store_scu=tuple(_ranges(scu.classify)),
    )


def _numbers(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


def _parameters(config: Config) -> tuple[Parameter, ...]:
    ae, wait = scp.make_ae(config), f"{config.delivery.timeout_s:g} s"
    rows = (
        ("Application Context Name", APPLICATION_CONTEXT, APPLICATION_CONTEXT),
        ("Implementation Class UID", ae.implementation_class_uid, part10.IMPLEMENTATION_CLASS_UID),
        (
            "Implementation Version Name",
            ae.implementation_version_name,
            part10.IMPLEMENTATION_VERSION_NAME,
        ),
        ("Maximum PDU announced", f"{ae.maximum_pdu_size} bytes", f"{scu.MAX_PDU} bytes"),
        ("Associations at once", str(config.receive.max_associations), "one for each destination"),
        ("Asynchronous operations window", "not negotiated: 1, 1", "not proposed: 1, 1"),
        ("Wait for an association request, or for its answer", f"{ae.acse_timeout:g} s", wait),
        ("Wait for a connection", "", wait),
        ("Wait for a DIMSE response", "", f"{wait}, and what 1 Mbit/s takes for the instance"),
        ("An idle association is aborted after", f"{ae.network_timeout:g} s", ""),
    )
    return tuple(
        Parameter(name=name, acceptor=str(ours), initiator=str(theirs))
        for name, ours, theirs in rows
    )


def _rejections(config: Config) -> tuple[tuple[str, str], ...]:
    when = {
        (1, 3): _unknown_callers(config),
        (1, 7): f"the called AE title is not {config.node.ae_title}"
        if config.receive.check_called_ae
        else "",
        (
            3,
            1,
        ): f"an address asks more than {config.receive.max_rate:g} times a second, on average over "
        f"{door.BURST_S:g} s"
        if config.receive.max_rate
        else "",
        (3, 2): f"{config.receive.max_associations} associations are open"
        + (
            f", or the disk has less than {config.disk.low_mb:g} MB free"
            if config.disk.low_mb
            else ""
        ),
    }
    return tuple(
        (f"{reason} (source {code[0]}, reason {code[1]})", when[code] or "never, as configured")
        for code, reason in scp.REJECTIONS.items()
    )


def _listeners(config: Config) -> str:
    plain = "" if config.tls.only else f"port {config.node.port} without TLS"
    secured = f"port {config.tls.port} with TLS" if config.tls.listens else ""
    return ", ".join(one for one in (plain, secured) if one)


def _unknown_callers(config: Config) -> str:
    titles = ", ".join(sorted({*config.receive.calling_ae, *config.receive.callers}))
    if not titles:
        return ""
    also = ", or one that calls from an address or with a certificate that is not its own"
    return f"the calling AE title is none of {titles}" + (also if config.receive.callers else "")


def _proposed(made: Sequence[tuple[str, str]]) -> tuple[PresentationContext, ...]:
    items = [
        scu.SendItem(
            path=Path(),
            sop_class_uid=sop_class,
            sop_instance_uid="",
            transfer_syntax_uid=syntax,
            may_decompress=True,
        )
        for sop_class, syntax in made
    ]
    return tuple(
        PresentationContext(
            abstract_syntax=named(str(context.abstract_syntax)),
            transfer_syntaxes=tuple(named(str(uid)) for uid in context.transfer_syntax),
        )
        for context in (
            *scu.presentation_contexts(items),
            scu.verification_context(),
            *query.query_contexts(),
            commitment.commitment_context(),
        )
    )


def _store_scp() -> tuple[Status, ...]:
    """PS3.4 Table B.2-1, PS3.7 Annex C: what a C-STORE request is answered with."""
    kept = "the file is synced and its row committed; also when the same instance comes again"
    said = (
        (receiving.SUCCESS, kept),
        (dimse.PROCESSING_FAILURE, "an error in the node; its log has the cause"),
        (dimse.SOP_CLASS_NOT_SUPPORTED, "the request's SOP Class is not its context's"),
        (receiving.OUT_OF_RESOURCES, "no space, or database or archive do not answer"),
        (header.DOES_NOT_MATCH, "the data set is of another SOP Class or Instance"),
        (header.CANNOT_UNDERSTAND, "there is no data set, or it cannot be decoded"),
        (header.TRUNCATED, "the data set, or its Pixel Data, is cut off"),
        (header.UID_MISSING, "a UID that identifies the instance is missing"),
        (header.UID_INVALID, "a UID that identifies the instance is none (PS3.5 9.1)"),
    )
    return tuple(
        Status(first=code, last=code, meaning=_meaning(code), behavior=behavior)
        for code, behavior in said
    )


def _meaning(code: int) -> str:
    return scu.describe(code).partition(" ")[2]


def _common(meanings: set[str]) -> str:
    """Of several meanings their kind: `Warning: Coercion ...` and `Warning: Elements ...` are `Warning`."""
    kinds = meanings if len(meanings) == 1 else {one.partition(":")[0] for one in meanings}
    return " or ".join(sorted(kinds))


#: What is done on each kind of answer.
BEHAVIORS = {
    scu.Outcome.DELIVERED: "the delivery is SENT",
    scu.Outcome.RETRY: "tried again",
    scu.Outcome.PERMANENT: "the delivery is FAILED",
}


def _ranges(classify: Callable[[int], scu.Outcome]) -> Iterator[Status]:
    """Each run of statuses with one outcome, Success for itself; then all others, which are refusals."""
    # PS3.7 9.1.1.1.9: Status is 16 bits.
    for (outcome, _), run in groupby(range(0x10000), lambda code: (classify(code), code == 0)):
        codes = list(run)
        if outcome is not scu.Outcome.PERMANENT:
            yield Status(
                first=codes[0],
                last=codes[-1],
                meaning=_common({_meaning(code) for code in codes}),
                behavior=BEHAVIORS[outcome],
            )
