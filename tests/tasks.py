"""Workitems for workers: a tiny series in an archive, and the task that names it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from dicomgen import make_series
from pydicom import Dataset

from node.compute import PerformTask
from pipelines.evidence.profile import GENERIC
from pipelines.evidence.request import Installation
from storage.archive import Archive, new_digest
from storage.model import Parameters

PIPELINES = Path(__file__).parent / "pipelines"
INSTALLATION = Installation(
    institution="Test", serial_number="1", uid_root="2.25", software_version="0.1.0"
)
STARTED_AT = datetime(2026, 1, 2, 10, 20, 30, tzinfo=UTC)


def fill_archive(archive: Archive, datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Write each instance; the keys."""
    keys = []
    for ds in datasets:
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        digest = new_digest().update(buffer.getvalue()).hexdigest()
        keys.append(archive.write(str(ds.SOPInstanceUID), digest, [buffer.getvalue()]))
    return tuple(keys)


def make_task(
    url: str,
    pipeline: str = "threshold_bone",
    *,
    parameters: Parameters | None = None,
    workitem_uid: str = "2.25.1234567890",
    datasets: Sequence[Dataset] | None = None,
) -> PerformTask:
    """A task on a small series, written into the archive at `url`."""
    datasets = make_series() if datasets is None else datasets
    return PerformTask(
        workitem_uid=workitem_uid,
        study_instance_uid=str(datasets[0].StudyInstanceUID),
        pipeline_folder=PIPELINES / pipeline,
        inputs={"ct": fill_archive(Archive(url), datasets)},
        parameters=parameters or {},
        started_at=STARTED_AT,
        archive_url=url,
        installation=INSTALLATION,
        profiles=GENERIC,
    )
