"""What we are asked: C-ECHO, and C-STORE of every storage SOP Class, in every transfer syntax, as they come. And what
we are told: storage commitment reports (PS3.4 J.3.3).

The network's side only: who may associate, with which presentation contexts, what the audit log hears of it. What
becomes of an instance is `node.receiving`'s; how bytes get here is `node.transport`'s.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import structlog
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

from node.commitment import PUSH_MODEL, UNRECOGNIZED_OPERATION, Keep, accepted_context, take_report
from node.config import Config
from node.errors import ConfigError
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.receiving import Received, receive
from node.transport import StoreRequest, StoreServer
from storage.archive import Archive
from storage.errors import StorageError
from storage.index import Index, wholeness
from storage.model import AddOutcome, Event, HeaderValue, utcnow

VERIFICATION = "1.2.840.10008.1.1"

#: Named storage, but no instances of a study: media directories, services, objects without a patient (PS3.4 GG).
_NOT_COMPOSITE = frozenset(
    (
        "1.2.840.10008.1.3.10",
        "1.2.840.10008.1.20.1",
        "1.2.840.10008.1.20.2",
        "1.2.840.10008.5.1.4.1.1.200.1",
        "1.2.840.10008.5.1.4.1.1.200.3",
        "1.2.840.10008.5.1.4.1.1.200.7",
        "1.2.840.10008.5.1.4.1.1.201.1",
        "1.2.840.10008.5.1.4.38.1",
        "1.2.840.10008.5.1.4.39.1",
        "1.2.840.10008.5.1.4.43.1",
        "1.2.840.10008.5.1.4.44.1",
        "1.2.840.10008.5.1.4.45.1",
    )
)

#: PS3.8 Table 9-21, (source, reason): why an association was rejected.
REJECTIONS = {
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (3, 2): "too many associations",
}

_log = structlog.get_logger(__name__)


@cache
def storage_sop_classes() -> frozenset[str]:
    """Every standard SOP Class of composite instances, retired ones too: what PACS archives still hold."""
    named = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name
    }
    listed = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    return frozenset((named | listed) - _NOT_COMPOSITE)


@cache
def transfer_syntaxes() -> frozenset[str]:
    """Every transfer syntax of the standard."""
    named = {uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}
    return frozenset(named | {str(uid) for uid in ALL_TRANSFER_SYNTAXES})


def accepted_sop_classes(config: Config) -> frozenset[str]:
    """Every SOP Class that the listener accepts."""
    return storage_sop_classes() | {VERIFICATION, *config.receive.private_sop_classes}


@dataclass(slots=True)
class _Tally:
    """What one association brought so far."""

    started_at: float = field(default_factory=time.monotonic)
    rejection: tuple[int, int] | None = None
    #: (Study Instance UID, DIMSE status, outcome) -> instances.
    counts: Counter[tuple[str | None, int, AddOutcome | None]] = field(default_factory=Counter)

    @property
    def studies(self) -> frozenset[str]:
        """Those of which it brought an instance that was taken."""
        # Of an instance that was refused nothing is held. One line: counts of an open association still grow.
        return frozenset(uid for uid, _, outcome in tuple(self.counts) if uid and outcome)


class Scp:
    """The DICOM listener; a context manager.

    Parameters
    ----------
    on_news
        Called at the end of an association that brought something new.
    keep_report
        Takes a storage commitment report; False when we asked for none such.
    """

    def __init__(
        self,
        config: Config,
        archive: Archive,
        index: Index,
        *,
        on_news: Callable[[], None] = lambda: None,
        keep_report: Keep = lambda report: False,
    ) -> None:
        self._config = config
        self._keep_report = keep_report
        self._archive = archive
        self._index = index
        self._on_news = on_news
        self._accepted = accepted_sop_classes(config)
        self._tallies: dict[Association, _Tally] = {}
        self._ae = make_ae(config)
        self._server: StoreServer | None = None

    def start(self) -> None:
        """Listen.

        Raises
        ------
        node.errors.ConfigError
            When the address is taken or not ours.
        """
        node = self._config.node
        try:
            server = StoreServer(
                self._ae,
                (node.host, node.port),
                node.ae_title,
                [build_context(VERIFICATION)],
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._begin),
                    (evt.EVT_REQUESTED, self._propose),
                    (evt.EVT_ACSE_SENT, self._note_rejection),
                    (evt.EVT_ACCEPTED, self._log_contexts),
                    (evt.EVT_N_EVENT_REPORT, self._hear),
                    # We commit ourselves to nothing: what comes is not kept for good.
                    (evt.EVT_N_ACTION, lambda event: (UNRECOGNIZED_OPERATION, None)),
                ],
                store=self._store,
                ended=self._end,
            )
        except OSError as error:
            raise ConfigError(
                f"node.port: cannot listen on {node.host} port {node.port}: {error.strerror}"
            ) from error
        self._server = server
        threading.Thread(target=server.serve_forever, name="dicom-listener", daemon=True).start()
        _log.info("listening", ae_title=node.ae_title, host=node.host, port=node.port)

    def stop(self, grace_s: float = 10.0) -> None:
        """Accept no more, let associations end for `grace_s`, abort the others."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        deadline = time.monotonic() + grace_s
        while self._tallies and time.monotonic() < deadline:
            time.sleep(0.02)
        for assoc in list(self._tallies):
            _hang_up(assoc)
        _log.info("stopped_listening")

    def sending(self) -> frozenset[str]:
        """Studies of which an association that is open now has brought something."""
        return frozenset().union(*(tally.studies for tally in tuple(self._tallies.values())))

    def __enter__(self) -> Scp:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # -- an association, from connection to end -----------------------------------------------------

    def _begin(self, event: evt.Event) -> None:
        self._tallies[event.assoc] = _Tally()

    def _propose(self, event: evt.Event) -> None:
        """Before negotiation: what we support is made of what is asked for, its first transfer syntax first."""
        wanted: dict[str, list[str]] = {}
        for context in _request(event.assoc).presentation_context_definition_list:
            uid = str(context.abstract_syntax)
            if uid in self._accepted or uid == PUSH_MODEL:
                known = [
                    ts for ts in map(str, context.transfer_syntax) if ts in transfer_syntaxes()
                ]
                syntaxes = wanted.setdefault(uid, [])
                syntaxes.extend(ts for ts in known if ts not in syntaxes)
        event.assoc.acceptor.supported_contexts = [
            accepted_context(syntaxes) if uid == PUSH_MODEL else build_context(uid, syntaxes)
            for uid, syntaxes in wanted.items()
            if syntaxes
        ]

    def _hear(self, event: evt.Event) -> tuple[int, None]:
        return take_report(event, self._keep_report), None

    def _note_rejection(self, event: evt.Event) -> None:
        primitive = cast(Any, event).primitive
        # PS3.8 9.3.4: only an A-ASSOCIATE-RJ has a diagnostic.
        if getattr(primitive, "diagnostic", None) is not None:
            tally = self._tallies[event.assoc]
            tally.rejection = (primitive.result_source, primitive.diagnostic)

    def _log_contexts(self, event: evt.Event) -> None:
        for context in event.assoc.rejected_contexts:
            _log.warning(
                "context_rejected",
                calling_ae=event.assoc.requestor.ae_title,
                abstract_syntax=str(context.abstract_syntax),
                name=UID(context.abstract_syntax or "").name,
                reason="transfer syntax" if context.result == 0x04 else "SOP class",
            )

    def _store(self, request: StoreRequest) -> int:
        assoc = request.assoc
        receipt = receive(
            Received(
                sop_class_uid=request.command.sop_class_uid,
                sop_instance_uid=request.command.sop_instance_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                calling_ae=assoc.requestor.ae_title,
                called_ae=_request(assoc).called_ae_title,
                data=request.data,
                digest=request.digest,
            ),
            self._archive,
            self._index,
            uid_root=self._config.node.uid_root,
        )
        key = (receipt.study_instance_uid, receipt.status, receipt.outcome)
        self._tallies[assoc].counts[key] += 1
        return receipt.status

    def _end(self, assoc: Association) -> None:
        tally = self._tallies.pop(assoc, None)
        if tally is None or assoc.requestor.primitive is None:
            # A connection on which nobody asked for anything: a port scan, a load balancer's look.
            return
        lines = _summarise(assoc, tally)
        for line in lines:
            _log.info("association_ended", kind=line.kind, calling_ae=line.actor, **line.detail)
        try:
            wholeness.end_association(
                self._index,
                lines=lines,
                studies=tally.studies,
                at=utcnow(),
                released=bool(assoc.is_released),
            )
        except StorageError as error:
            _log.error("association_not_audited", reason=str(error))
        if any(outcome is AddOutcome.ADDED for _, _, outcome in tally.counts):
            self._on_news()


def start_scp(
    config: Config, archive: Archive, index: Index, *, on_news: Callable[[], None] = lambda: None
) -> Scp:
    """Listen as the configuration says; `stop` the value when done."""
    scp = Scp(config, archive, index, on_news=on_news)
    scp.start()
    return scp


def _hang_up(assoc: Association) -> None:
    """Abort an association; a connection on which none was asked for yet is closed.

    PS3.8 Table 9-10: Sta2, awaiting the A-ASSOCIATE-RQ, knows no A-ABORT request.
    """
    if assoc.requestor.primitive is not None:
        assoc.abort()
        return
    transport = assoc.dul.socket
    connection = transport.socket if transport is not None else None
    if connection is not None:
        with contextlib.suppress(OSError):  # the peer was faster
            connection.shutdown(socket.SHUT_RDWR)


def _request(assoc: Association) -> A_ASSOCIATE:
    """The A-ASSOCIATE-RQ of an association that has had one."""
    return cast(A_ASSOCIATE, assoc.requestor.primitive)


def make_ae(config: Config) -> AE:
    """The listener's settings, as pynetdicom holds them."""
    ae = AE(config.node.ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    receive_section = config.receive
    ae.require_called_aet = receive_section.check_called_ae
    ae.require_calling_aet = list(receive_section.calling_ae)
    ae.maximum_associations = receive_section.max_associations
    ae.maximum_pdu_size = receive_section.max_pdu
    ae.network_timeout = receive_section.idle_timeout_s
    return ae


def _summarise(assoc: Association, tally: _Tally) -> list[Event]:
    """One line for each study the association brought; one when it brought none."""
    about: dict[str, HeaderValue] = {
        "address": assoc.requestor.address,
        "called_ae": _request(assoc).called_ae_title,
        "ended": "released" if assoc.is_released else "aborted",
        "seconds": round(time.monotonic() - tally.started_at, 3),
    }

    def line(kind: str, outcome: str, study: str | None = None, **detail: HeaderValue) -> Event:
        # Not `assoc.requestor.ae_title`: that is unset when a rejection comes early.
        actor = _request(assoc).calling_ae_title
        return Event(
            kind=kind,
            actor=actor,
            at=utcnow(),
            study_instance_uid=study,
            outcome=outcome,
            detail={**about, **detail},
        )

    if assoc.is_rejected or tally.rejection:
        reason = REJECTIONS.get(tally.rejection or (0, 0), f"rejected {tally.rejection}")
        return [line("association-rejected", "failure", ended="rejected", reason=reason)]
    studies: dict[str | None, Counter[str]] = {}
    for (study, status, outcome), count in tally.counts.items():
        counts = studies.setdefault(study, Counter())
        counts[f"0x{status:04X}"] += count
        counts[outcome.value.lower() if outcome else "refused"] += count
    if not studies:
        return [line("association", "success" if assoc.is_released else "failure")]
    return [
        line("instances-received", "failure" if counts["refused"] else "success", study, **counts)
        for study, counts in studies.items()
    ]
