"""Modalities that send studies until they are told to stop, and write down what they were answered."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

from dicomgen import Geometry, make_series
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dsutils import encode

from storage.archive import new_digest

CT = "1.2.840.10008.5.1.4.1.1.2"
#: Seconds after which a study that could not be sent is a failure of the node.
PATIENCE_S = 120.0


@dataclass(kw_only=True)
class Ledger:
    """What was answered 0x0000: SOP Instance UID -> digest of the data set; which studies are whole with it."""

    answered: dict[str, str] = field(default_factory=dict)
    #: Study Instance UID -> SOP Instance UIDs.
    studies: dict[str, list[str]] = field(default_factory=dict)
    #: Associations that ended before their time, and instances that were answered otherwise.
    cut_off: int = 0
    refused: int = 0
    #: What cannot be: a sender that gave up.
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sender(threading.Thread):
    """One modality: study after study, each sent again until every instance was answered 0x0000."""

    def __init__(self, number: int, seed: int, port: int, ledger: Ledger) -> None:
        super().__init__(name=f"sender-{number}", daemon=True)
        self._number = number
        self._random = random.Random(f"{seed}/{number}")  # noqa: S311 - keeps no secret
        self._port = port
        self._ledger = ledger
        self._stopped = threading.Event()
        self._calling_ae = f"CT{number}"

    def stop(self) -> None:
        """Finish the study in hand, and end."""
        self._stopped.set()

    def run(self) -> None:
        count = 0
        while not self._stopped.is_set():
            count += 1
            self.send_study(1000 * self._number + count)
            self._stopped.wait(self._random.uniform(0.2, 1.5))

    def send_study(self, number: int) -> None:
        """One study, until all of it was answered 0x0000."""
        series = make_series(study=number, geometry=Geometry(slices=self._random.randint(4, 9)))
        left = list(series)
        deadline = time.monotonic() + PATIENCE_S
        while left:
            if time.monotonic() > deadline:
                self._ledger.failures.append(f"{self._calling_ae} gave up on study {number}")
                return
            left = self._send(left)
            if left:
                time.sleep(0.2)
        with self._ledger.lock:
            self._ledger.studies[series[0].StudyInstanceUID] = [ds.SOPInstanceUID for ds in series]

    def _send(self, series: list[Dataset]) -> list[Dataset]:
        """One association; what is left to send."""
        ae = AE(self._calling_ae)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 15
        ae.connection_timeout = 5
        ae.add_requested_context(CT, "1.2.840.10008.1.2.1")
        assoc = ae.associate("127.0.0.1", self._port, ae_title="OSTEONODE")
        if not assoc.is_established:
            return series
        left = []
        for n, ds in enumerate(series):
            if not assoc.is_established:
                self._ledger.cut_off += 1
                return left + series[n:]
            try:
                status = assoc.send_c_store(ds).get("Status")
            except RuntimeError:  # the association ended between the question and now
                status = None
            if status == 0x0000:
                self._note(ds)
            else:
                self._ledger.refused += status is not None
                left.append(ds)
            time.sleep(self._random.uniform(0, 0.02))
        assoc.release()
        return left

    def _note(self, ds: Dataset) -> None:
        data = encode(ds, False, True)
        assert data is not None
        with self._ledger.lock:
            self._ledger.answered[ds.SOPInstanceUID] = new_digest().update(data).hexdigest()
