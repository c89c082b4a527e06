"""A PACS of a peer that offers storage commitment (PS3.4 Annex J): pynetdicom's own SCP, none of the node's code.

It reports on the association of the request, on a new one, late, never, or with failures, as it is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from peer import Pacs
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt

#: Storage Commitment Push Model SOP Class, and its instance.
PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"


class Reports(Enum):
    """Where a report goes."""

    SAME = "on the association of the request"
    NEW = "on a new association"
    NEVER = "nowhere"


@dataclass(kw_only=True)
class CommittingPacs(Pacs):
    """`Pacs` with storage commitment; what it holds is what it was sent and `instances`."""

    #: Port of the node that it reports to.
    node_port: int = 0
    reports: Reports = Reports.NEW
    #: Seconds until it reports.
    report_after_s: float = 0.0
    #: Whether it negotiates the SCP role on a new association.
    negotiates: bool = True
    #: Whether it accepts the service at all.
    commits: bool = True
    #: DIMSE status of its answer to N-ACTION.
    action_status: int = 0x0000
    #: SOP Instance UID -> Failure Reason.
    failing: dict[str, int] = field(default_factory=dict)
    #: SOP Instance UIDs it holds besides.
    instances: set[str] = field(default_factory=set)
    #: What it was asked, in order.
    requests: list[Dataset] = field(default_factory=list)
    #: DIMSE status of the answer to each report.
    answers: list[int | None] = field(default_factory=list)

    def prepare(self, ae: AE) -> None:
        if self.commits:
            ae.add_supported_context(PUSH_MODEL)

    def handlers(self) -> list[evt.EventHandlerType]:
        return [(evt.EVT_N_ACTION, self._act)]

    def _act(self, event: evt.Event) -> tuple[int, None]:
        request = event.action_information
        assert event.request.RequestedSOPInstanceUID == PUSH_MODEL_INSTANCE
        assert event.action_type == 1
        self.requests.append(request)
        if self.action_status == 0x0000 and self.reports is not Reports.NEVER:
            target = self._report_here if self.reports is Reports.SAME else self._report_anew
            threading.Thread(target=target, args=(request, event.assoc), daemon=True).start()
        return self.action_status, None

    def report(self, request: Dataset) -> int | None:
        """Report what was asked, on a new association; the status of the node's answer, None without one."""
        ae = AE(self.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        roles = [build_role(PUSH_MODEL, scp_role=True)] if self.negotiates else []
        context = build_context(PUSH_MODEL)
        assoc = ae.associate(
            "127.0.0.1", self.node_port, [context], ae_title="OSTEONODE", ext_neg=roles
        )
        if not assoc.is_established:
            return None
        assert assoc.accepted_contexts, "storage commitment is not accepted"
        if self.negotiates:
            assert assoc.accepted_contexts[0].as_scp
        kind, information = self._information(request)
        status, _ = assoc.send_n_event_report(information, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        assoc.release()
        answer = status.get("Status")
        return None if answer is None else int(answer)

    def _report_anew(self, request: Dataset, assoc: object) -> None:
        time.sleep(self.report_after_s)
        self.answers.append(self.report(request))

    def _report_here(self, request: Dataset, assoc: evt.Association) -> None:
        # After the answer to N-ACTION, which is on its way.
        time.sleep(self.report_after_s + 0.2)
        kind, information = self._information(request)
        status, _ = assoc.send_n_event_report(information, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        self.answers.append(status.get("Status"))

    def _information(self, request: Dataset) -> tuple[int, Dataset]:
        """PS3.4 Table J.3-2."""
        ds = Dataset()
        ds.TransactionUID = request.TransactionUID
        asked = request.ReferencedSOPSequence
        kept = [i for i in asked if i.ReferencedSOPInstanceUID not in self.failing]
        lost = [i for i in asked if i.ReferencedSOPInstanceUID in self.failing]
        if kept:
            ds.ReferencedSOPSequence = kept
        if lost:
            for item in lost:
                item.FailureReason = self.failing[item.ReferencedSOPInstanceUID]
            ds.FailedSOPSequence = lost
        return (2 if lost else 1), ds

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        if wanted.QueryRetrieveLevel != "IMAGE":
            yield from super()._find(event)
            return
        self.asked.append("IMAGE")
        held = {str(ds.SOPInstanceUID) for ds in self.received} | self.instances
        for uid in sorted(held):
            ds = Dataset()
            ds.QueryRetrieveLevel = "IMAGE"
            ds.StudyInstanceUID = wanted.StudyInstanceUID
            ds.SeriesInstanceUID = wanted.SeriesInstanceUID
            ds.SOPInstanceUID = uid
            yield 0xFF00, ds
