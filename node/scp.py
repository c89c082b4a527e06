"""What we are asked: C-ECHO, and C-STORE of every storage SOP Class, in every transfer syntax, as they come. And what
we are told: storage commitment reports (PS3.4 J.3.3).

The network's side only: who may associate, with which presentation contexts, what the audit log hears of it. What
becomes of an instance is `node.receiving`'s; how bytes get here is `node.transport`'s.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, cast

import structlog
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from node import tls
from node.commitment import PUSH_MODEL, UNRECOGNIZED_OPERATION, Keep, accepted_context, take_report
from node.config import Config
from node.dimse import Nowhere, Sink, StoreRequest
from node.diskspace import DiskWatch, Room, free_bytes
from node.door import Door, Peer, Refusal, Telling, right_of
from node.errors import ConfigError
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.receiving import OUT_OF_RESOURCES, Incoming, Received
from node.transport import Guard, StoreServer, certificate_names, hang_up
from storage.archive import Archive
from storage.errors import StorageError
from storage.index import Index, events, wholeness
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
    (3, 1): "too many associations a second",
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
    #: The same in words, where `rejection` says less.
    reason: str = ""
    #: Rights that it asked for and has not.
    not_permitted: frozenset[str] = frozenset()
    #: Whether it was sent an A-ABORT.
    is_aborted: bool = False
    #: (Study Instance UID, DIMSE status, outcome) -> instances.
    counts: Counter[tuple[str | None, int, AddOutcome | None]] = field(default_factory=Counter)

    @property
    def studies(self) -> frozenset[str]:
        """Those of which it brought an instance that was taken."""
        # Of an instance that was refused nothing is held. One line: counts of an open association still grow.
        return frozenset(uid for uid, _, outcome in tuple(self.counts) if uid and outcome)


@dataclass(frozen=True, slots=True)
class _Counted:
    """An instance while it comes in, and where it is counted when it has."""

    incoming: Incoming
    tally: _Tally

    def write(self, parts: Sequence[memoryview]) -> None:
        self.incoming.write(parts)

    def finish(self) -> int:
        receipt = self.incoming.finish()
        self.tally.counts[receipt.study_instance_uid, receipt.status, receipt.outcome] += 1
        return receipt.status

    def abandon(self) -> None:
        self.incoming.abandon()


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
        self._door = Door(config.receive)
        self._telling = Telling()
        self._servers: list[StoreServer] = []
        self._disk = DiskWatch(
            config.disk,
            partial(free_bytes, archive, config.node.data),
            index,
            actor=config.node.ae_title,
        )

    def start(self) -> None:
        """Listen.

        Raises
        ------
        node.errors.ConfigError
            When the address is taken or not ours.
        """
        node, section = self._config.node, self._config.tls
        # First all sockets: where one cannot be had, none is left listening.
        if not section.only:
            self._servers.append(self._listen(node.port, "node.port", None))
        if section.listens:
            secured = tls.acceptor(section)
            try:
                secured.current()
                self._servers.append(self._listen(section.port, "tls.port", secured))
            except ConfigError:
                self.stop(0.0)
                raise
        for server in self._servers:
            server.begin()
            _log.info(
                "listening",
                ae_title=node.ae_title,
                host=node.host,
                port=server.server_address[1],
                tls=server.tls is not None,
            )

    def _listen(self, port: int, setting: str, secured: tls.Reloaded | None) -> StoreServer:
        node, receive_section = self._config.node, self._config.receive
        try:
            return StoreServer(
                self._ae,
                (node.host, port),
                node.ae_title,
                [build_context(VERIFICATION)],
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._begin),
                    (evt.EVT_REQUESTED, self._admit),
                    (evt.EVT_ACSE_SENT, self._note_rejection),
                    (evt.EVT_ACCEPTED, self._log_contexts),
                    (evt.EVT_PDU_SENT, self._log_abort),
                    (evt.EVT_N_EVENT_REPORT, self._hear),
                    # We commit ourselves to nothing: what comes is not kept for good.
                    (evt.EVT_N_ACTION, lambda event: (UNRECOGNIZED_OPERATION, None)),
                ],
                store=self._store,
                ended=self._end,
                guard=Guard(
                    arrive=self._arrive,
                    refuse=self._refuse,
                    request_timeout_s=receive_section.request_timeout_s,
                    pdu_timeout_s=receive_section.pdu_timeout_s,
                ),
                streams=receive_section.streaming,
                tls=secured,
            )
        except OSError as error:
            raise ConfigError(
                f"{setting}: cannot listen on {node.host} port {port}: {error.strerror}"
            ) from error

    def stop(self, grace_s: float = 10.0) -> None:
        """Accept no more, let associations end for `grace_s`, abort the others."""
        servers, self._servers = self._servers, []
        if not servers:
            return
        for server in servers:
            server.end()
        deadline = time.monotonic() + grace_s
        while self._tallies and time.monotonic() < deadline:
            time.sleep(0.02)
        for assoc in list(self._tallies):
            _hang_up(assoc)
        for address, reason, times in self._telling.rest():
            self._tell(address, reason, times)
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

    def _arrive(self, peer: Peer) -> bool:
        """In the listener's thread: whether a connection is heard at all."""
        if reason := self._door.arrive(peer):
            self._tell(peer[0], reason)
        return not reason

    def _refuse(self, peer: Peer, reason: str) -> None:
        """A connection that got no further than TLS."""
        self._door.leave(peer)
        self._tell(peer[0], reason)

    def _tell(self, address: str, reason: str, times: int | None = None) -> None:
        """One line of the log and the audit log for a connection that is closed, or for as many as were since."""
        if times is None:
            times = self._telling.times(address, reason)
        if not times:
            return
        _log.warning("connection_refused", address=address, reason=reason, times=times)
        line = Event(
            kind="connection-refused",
            actor=address,
            at=utcnow(),
            outcome="failure",
            detail={"address": address, "reason": reason, "times": times},
        )
        try:
            events.add(self._index, line)
        except StorageError as error:
            _log.error("refusal_not_audited", reason=str(error))

    def _begin(self, event: evt.Event) -> None:
        self._tallies[event.assoc] = _Tally()

    def _admit(self, event: evt.Event) -> None:
        """Before negotiation: who asks, and how often; then what of it he may."""
        assoc = event.assoc
        refusal = self._door.ask(
            _peer(assoc), _request(assoc).calling_ae_title, certificate_names(assoc)
        )
        if refusal is None and self._disk.room() is not Room.ENOUGH:
            # PS3.8 Table 9-21: rejected-transient, presentation related, local-limit-exceeded.
            refusal = Refusal(result=2, source=3, diagnostic=2, reason="the disk is nearly full")
        if refusal is None:
            self._propose(event)
            return
        self._tallies[assoc].reason = refusal.reason
        # As pynetdicom rejects: with the title that it has not set yet.
        assoc.requestor.ae_title = _request(assoc).calling_ae_title
        assoc.acse.send_reject(refusal.result, refusal.source, refusal.diagnostic)
        assoc.kill()

    def _propose(self, event: evt.Event) -> None:
        """What we support is made of what is asked for and permitted, its first transfer syntax first."""
        wanted: dict[str, list[str]] = {}
        rights = self._door.rights(_request(event.assoc).calling_ae_title)
        tally = self._tallies[event.assoc]
        for context in _request(event.assoc).presentation_context_definition_list:
            uid = str(context.abstract_syntax)
            is_known = uid in self._accepted or uid == PUSH_MODEL
            if is_known and right_of(uid) not in rights:
                tally.not_permitted |= {right_of(uid)}
            elif is_known:
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
        not_permitted = self._tallies[event.assoc].not_permitted
        for context in event.assoc.rejected_contexts:
            right = right_of(str(context.abstract_syntax))
            why = "SOP class" if right not in not_permitted else f"may not {right}"
            _log.warning(
                "context_rejected",
                calling_ae=event.assoc.requestor.ae_title,
                abstract_syntax=str(context.abstract_syntax),
                name=UID(context.abstract_syntax or "").name,
                reason="transfer syntax" if context.result == 0x04 else why,
            )

    def _log_abort(self, event: evt.Event) -> None:
        # PS3.8 9.3.8: source 2 is the upper layer, which was sent what it cannot go on with.
        # Whatever else comes until it hangs up is answered with another (Table 9-10, AA-7).
        pdu = cast(Any, event).pdu
        tally = self._tallies.get(event.assoc)
        if isinstance(pdu, A_ABORT_RQ) and tally is not None and not tally.is_aborted:
            tally.is_aborted = True
            about = event.assoc.requestor
            _log.warning(
                "abort_sent", address=about.address, calling_ae=about.ae_title, source=pdu.source
            )

    def _store(self, request: StoreRequest) -> Sink:
        assoc = request.assoc
        tally = self._tallies[assoc]
        if self._disk.room() is Room.FULL:
            tally.counts[None, OUT_OF_RESOURCES, None] += 1
            return Nowhere(OUT_OF_RESOURCES)
        incoming = Incoming(
            Received(
                sop_class_uid=request.command.sop_class_uid,
                sop_instance_uid=request.command.sop_instance_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                calling_ae=assoc.requestor.ae_title,
                called_ae=_request(assoc).called_ae_title,
            ),
            self._archive,
            self._index,
            uid_root=self._config.node.uid_root,
        )
        return _Counted(incoming, tally)

    def _end(self, assoc: Association) -> None:
        self._door.leave(_peer(assoc))
        tally = self._tallies.pop(assoc, None)
        if tally is None or assoc.requestor.primitive is None:
            # A connection on which nobody asked for anything: a port scan, a load balancer's look.
            return
        lines = _summarise(assoc, tally)
        if lines[0].kind == "association-rejected":
            times = self._telling.times(assoc.requestor.address, str(lines[0].detail["reason"]))
            lines = [replace(lines[0], detail={**lines[0].detail, "times": times})] if times else []
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
    hang_up(assoc)


def _peer(assoc: Association) -> Peer:
    """Address and port of who connected."""
    return assoc.requestor.address, assoc.requestor.port


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
    # Who else may come in, and how many, is `node.door`'s: pynetdicom would count those that never ask.
    ae.maximum_associations = sys.maxsize
    ae.maximum_pdu_size = receive_section.max_pdu
    ae.network_timeout = receive_section.idle_timeout_s
    ae.acse_timeout = receive_section.request_timeout_s
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

    if tally.not_permitted:
        about["not_permitted"] = ", ".join(sorted(tally.not_permitted))
    if assoc.is_rejected or tally.rejection:
        code = tally.rejection or (0, 0)
        reason = tally.reason or REJECTIONS.get(code, f"rejected {tally.rejection}")
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
