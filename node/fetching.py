"""A series that we do not hold, fetched: by WADO-RS (PS3.18 10.4), C-MOVE or C-GET, and kept as if it had been sent."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from io import BytesIO

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmwrite
from pydicom.errors import BytesLengthException, InvalidDicomError

from node.config import Config, WorklistSetting
from node.errors import WorklistError
from node.receiving import Received, receive
from node.ups import authorization, code_of
from storage.archive import Archive
from storage.index import Index, instances
from storage.model import StepInput

#: Any transfer syntax: as the archive has it.
_AS_IT_IS = (("application/dicom", "*"),)
#: What pydicom raises on an instance that is none, and dicomweb-client on an answer that is none.
_UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, NotImplementedError, EOFError),
    *(InvalidDicomError, BytesLengthException),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where what is fetched is kept."""

    config: Config
    archive: Archive
    index: Index

    def keep(self, received: Received, data: bytes) -> int:
        """Keep one instance; the status of its C-STORE."""
        return receive(
            received, data, self.archive, self.index, uid_root=self.config.node.uid_root
        ).status

    def holds(self, wanted: StepInput) -> bool:
        """Whether every instance of an input is held; of one that names none, whether there is any."""
        if not wanted.sop_instance_uids:
            return bool(
                instances.of_series(
                    self.index,
                    wanted.series_instance_uid,
                    study_instance_uid=wanted.study_instance_uid,
                )
            )
        held = instances.of_uids(self.index, wanted.sop_instance_uids)
        return len(held) == len(set(wanted.sop_instance_uids))


def fetch_by_wado(
    shelf: Shelf,
    wanted: StepInput,
    *,
    name: str,
    setting: WorklistSetting,
    stopping: threading.Event,
) -> int:
    """Retrieve a series from where its step says, else from the worklist's archive; how many instances came.

    Raises
    ------
    node.errors.WorklistError
        When it does not come whole.
    """
    url = wanted.retrieve_url.partition("/studies/")[0] or setting.retrieve_url or setting.url
    # A token goes to the worklist's own host only.
    ours = _host(url) in {_host(setting.url), _host(setting.retrieve_url)}
    headers = authorization(name, setting) if ours else {}
    with requests.Session() as session:
        _authenticate(session, setting)
        client = DICOMwebClient(url, session=session, headers=headers, timeout=setting.timeout_s)
        client.set_http_retry_params(retry=False)
        came = 0
        try:
            for ds in client.iter_series(
                wanted.study_instance_uid, wanted.series_instance_uid, media_types=_AS_IT_IS
            ):
                _keep(shelf, ds, source=name)
                came += 1
                if stopping.is_set():
                    raise WorklistError("no-answer", "The node stops; the rest is fetched later.")
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise WorklistError(
                code_of(status), f"{_host(url)} answers a retrieval (WADO-RS) with {status}."
            ) from error
        except requests.RequestException as error:
            raise WorklistError(
                "no-answer",
                f"{_host(url)} does not answer a retrieval (WADO-RS): {type(error).__name__}.",
            ) from error
        except _UNREADABLE as error:
            raise WorklistError(
                "unreadable", f"{_host(url)} answers a retrieval with what is no DICOM instance."
            ) from error
    return came


def _keep(shelf: Shelf, ds: Dataset, *, source: str) -> None:
    syntax = str(ds.file_meta.TransferSyntaxUID)
    data = _encoded(ds)
    status = shelf.keep(
        Received(
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            transfer_syntax_uid=syntax,
            calling_ae=source,
            called_ae=shelf.config.node.ae_title,
        ),
        data,
    )
    if status != 0x0000:
        raise WorklistError("unreadable", f"An instance that came was refused: 0x{status:04X}.")


def _encoded(ds: Dataset) -> bytes:
    """The encoded data set alone: elements that nobody looked at are written as they were read."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    whole = buffer.getvalue()
    # PS3.10 7.1: preamble, prefix, then (0002,0000) with the length of what follows it before the data set.
    length = int.from_bytes(whole[140:144], "little")
    return whole[144 + length :]


def _authenticate(session: requests.Session, setting: WorklistSetting) -> None:
    # Else ~/.netrc would have a say.
    session.trust_env = False
    if setting.ca is not None:
        session.verify = str(setting.ca)
    if setting.certificate is not None:
        key = setting.key
        session.cert = (
            str(setting.certificate) if key is None else (str(setting.certificate), str(key))
        )


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]
