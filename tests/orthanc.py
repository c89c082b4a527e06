"""A real PACS: Debian's Orthanc in a process of its own, asked by its REST interface."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from nodes import free_port
from pydicom import Dataset, dcmread

ORTHANC = "/usr/sbin/Orthanc"
DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """One running Orthanc."""

    ae_title: str
    dicom_port: int
    http_port: int

    def ask(self, path: str) -> Any:
        """GET, as JSON."""
        return json.loads(self.get(path))

    def get(self, path: str) -> bytes:
        """GET, as bytes."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.http_port}{path}", timeout=10
        ) as answer:
            return bytes(answer.read())

    def put(self, encoded: bytes) -> None:
        """Store an instance (PS3.10)."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.http_port}/instances", data=encoded, timeout=10
        ):
            pass

    def instances_of(self, study_instance_uid: str) -> list[Dataset]:
        """What it holds of a study, each downloaded again."""
        found = []
        for study in self.ask("/studies?expand"):
            if study["MainDicomTags"]["StudyInstanceUID"] == study_instance_uid:
                found += [
                    dcmread(BytesIO(self.get(f"/instances/{instance['ID']}/file")))
                    for instance in self.ask(f"/studies/{study['ID']}/instances")
                ]
        return found


def make_orthanc() -> Orthanc:
    """One on free ports, not running yet."""
    return Orthanc(ae_title="ORTHANC", dicom_port=free_port(), http_port=free_port())


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    plugins: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    orthanc: Orthanc | None = None,
) -> Iterator[Orthanc]:
    """Start Orthanc with its storage and index under `folder`; default configuration but for `settings`.

    Parameters
    ----------
    orthanc
        One that runs there more than once, on its ports; it is stopped with care. Any other is killed: to close what
        nobody opens again takes it three seconds.
    """
    runs_again = orthanc is not None
    orthanc = orthanc or make_orthanc()
    configuration = folder / "orthanc.json"
    folder.mkdir(parents=True, exist_ok=True)
    configuration.write_text(
        json.dumps(
            {
                "Name": "test",
                "DicomAet": orthanc.ae_title,
                "DicomPort": orthanc.dicom_port,
                "HttpPort": orthanc.http_port,
                "RemoteAccessAllowed": False,
                # As if we stood in DicomModalities: others' questions end in an abort.
                "DicomAlwaysAllowFind": True,
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "Plugins": list(plugins),
                **(settings or {}),
            }
        ),
        encoding="utf-8",
    )
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(configuration)], stdout=log, stderr=log)
    try:
        _wait_until_it_answers(orthanc, process, folder / "orthanc.log")
        yield orthanc
    finally:
        if runs_again:
            process.terminate()
        else:
            process.kill()
        process.wait(timeout=20)


def _wait_until_it_answers(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            orthanc.ask("/system")
        except urllib.error.HTTPError:
            # It wants a user.
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"Orthanc does not answer:\n{log.read_text(encoding='utf-8')}")
