"""A real PACS of a peer: pynetdicom's own SCP, recording what it is sent. None of the node's code.

    with Pacs() as pacs:
        send(pacs.destination, ...)
        assert [ds.Modality for ds in pacs.received] == ["SEG"]

It answers C-FIND (Study Root) of what is in `holds`. It can be told to refuse (`status = 0xA700`), to hang up in the
middle (`abort_after = 3`), to take little (`transfer_syntaxes`), to be dead (`stop()`) and to come back (`start()`, on
the same port).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from storage.model import Destination

#: Study Root Query/Retrieve Information Model - FIND.
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedFile:
    """One C-STORE as it came."""

    calling_ae: str
    transfer_syntax_uid: str
    #: The encoded data set.
    data: bytes
    #: The same as a DICOM file, file meta information included.
    file: bytes
    received_at: float

    @property
    def ds(self) -> Dataset:
        return dcmread(BytesIO(self.file))


class _Unchanging(list[PresentationContext]):
    """pynetdicom makes a copy of all 172 for each association, and changes none."""

    def __deepcopy__(self, memo: object) -> _Unchanging:
        return self


@cache
def _storage_contexts(transfer_syntaxes: tuple[str, ...]) -> list[PresentationContext]:
    """Every storage SOP Class; made once, for pynetdicom looks at each of 7,000 UIDs."""
    ae = AE()
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, list(transfer_syntaxes))
    return ae.supported_contexts


@dataclass(kw_only=True)
class Pacs:
    """One peer; `start` and `stop` as often as a test likes."""

    ae_title: str = "PACS"
    port: int = 0
    #: DIMSE status it answers.
    status: int = 0x0000
    #: Status by SOP Instance UID, before `status`.
    statuses: dict[str, int] = field(default_factory=dict)
    #: Aborts the association instead of answering this many-th (from 0) instance.
    abort_after: int | None = None
    #: Seconds before it answers a C-STORE.
    delay_s: float = 0.0
    transfer_syntaxes: Sequence[str] = tuple(ALL_TRANSFER_SYNTAXES)
    require_called_ae: bool = True
    #: Whether it accepts C-FIND.
    finds: bool = True
    #: What it holds and is asked about: Study -> Series Instance UID -> (Modality, instances).
    holds: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    #: Return keys that it does not have.
    uncounted: frozenset[str] = frozenset()
    #: Status of a C-FIND instead of its answers.
    find_status: int | None = None
    #: Levels it was asked at.
    asked: list[str] = field(default_factory=list)
    files: list[ReceivedFile] = field(default_factory=list)
    associations: int = 0
    _server: ThreadedAssociationServer | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> Pacs:
        """Listen; on the same port as before, the first time on a free one."""
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        ae = AE(self.ae_title)
        ae.require_called_aet = self.require_called_ae
        ae.add_supported_context(Verification)
        if self.finds:
            ae.add_supported_context(FIND)
        self.prepare(ae)
        storage = _storage_contexts(tuple(self.transfer_syntaxes))
        self._server = ae.make_server(
            ("127.0.0.1", self.port),
            contexts=[*ae.supported_contexts, *storage],
            server_class=ThreadedAssociationServer,
            evt_handlers=[
                *self.handlers(),
                (evt.EVT_CONN_OPEN, self._open),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_C_ECHO, lambda event: 0x0000),
                (evt.EVT_C_FIND, self._find),
            ],
        )
        self._server.contexts = _Unchanging(self._server.contexts)
        # As `ae.start_server`, whose thread looks every half second whether it shall end: `stop` waits for that look.
        ae._servers.append(self._server)
        looking = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=looking, daemon=True).start()
        return self

    def prepare(self, ae: AE) -> None:
        """What a peer of another kind accepts besides."""

    def handlers(self) -> list[evt.EventHandlerType]:
        """And how it answers that."""
        return []

    def stop(self) -> None:
        """Be dead: associations aborted, port closed."""
        if self._server is not None:
            ae, self._server = self._server.ae, None
            for assoc in ae.active_associations:
                # Before Sta6 and after it there is nothing to abort, and pynetdicom's thread would die of it.
                if assoc.dul.state_machine.current_state != "Sta6":
                    with contextlib.suppress(OSError, AttributeError):
                        assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
                else:
                    assoc.abort()
            for server in ae._servers[:]:
                server.shutdown()

    def __enter__(self) -> Pacs:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def destination(self) -> Destination:
        """How the node is told about it."""
        return Destination(
            name=self.ae_title, host="127.0.0.1", port=self.port, called_ae=self.ae_title
        )

    @property
    def received(self) -> list[Dataset]:
        """What came, in order, the same object as often as it came."""
        return [file.ds for file in list(self.files)]

    def wait_for(self, count: int, timeout_s: float = 30.0) -> list[Dataset]:
        """Wait until `count` instances have come; AssertionError otherwise."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.files) >= count, timeout_s):
                raise AssertionError(f"{len(self.files)} of {count} instances in {timeout_s:g} s")
        return self.received

    def _open(self, event: evt.Event) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.associations += 1

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        self.asked.append(wanted.QueryRetrieveLevel)
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.find_status is not None:
            yield self.find_status, None
            return
        series = self.holds.get(wanted.StudyInstanceUID, {})
        if wanted.QueryRetrieveLevel == "STUDY" and series:
            yield (
                0xFF00,
                self._match(
                    wanted,
                    NumberOfStudyRelatedSeries=len(series),
                    NumberOfStudyRelatedInstances=sum(count for _, count in series.values()),
                ),
            )
        elif wanted.QueryRetrieveLevel == "SERIES":
            for uid, (modality, count) in series.items():
                yield (
                    0xFF00,
                    self._match(
                        wanted,
                        SeriesInstanceUID=uid,
                        Modality=modality,
                        NumberOfSeriesRelatedInstances=count,
                    ),
                )

    def _match(self, wanted: Dataset, **values: object) -> Dataset:
        ds = Dataset()
        ds.QueryRetrieveLevel = wanted.QueryRetrieveLevel
        ds.StudyInstanceUID = wanted.StudyInstanceUID
        for keyword, value in values.items():
            setattr(ds, keyword, None if keyword in self.uncounted else value)
        return ds

    def _store(self, event: evt.Event) -> int:
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.abort_after is not None and len(self.files) >= self.abort_after:
            event.assoc.abort()
            return 0xC000
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.statuses.get(uid, self.status)
        if status < 0xA000 or status >> 12 == 0xB:
            file = ReceivedFile(
                calling_ae=event.assoc.requestor.ae_title,
                transfer_syntax_uid=str(event.context.transfer_syntax),
                data=event.request.DataSet.getvalue(),
                file=event.encoded_dataset(),
                received_at=time.time(),
            )
            with self._changed:
                self.files.append(file)
                self._changed.notify_all()
        return status
