"""Values for tests of the index: small, valid, told apart by a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from storage.index import Index, instances, studies, workitems
from storage.model import (
    Completion,
    Evidence,
    Finding,
    Header,
    Instance,
    MeasurementRow,
    SegmentResidual,
    Workitem,
    WorkitemInput,
    WorkitemState,
)

T = TypeVar("T")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STUDY = "1.2.826.0.1.3680043.8.498.1"
SERIES = f"{STUDY}.2"

AXIAL: Header = {
    "PatientID": ("P1",),
    "AccessionNumber": ("A1",),
    "StudyDate": ("20260301",),
    "StudyDescription": ("Abdomen",),
    "Modality": ("CT",),
    "ImageOrientationPatient": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
}


def later(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def make_instance(
    n: int,
    *,
    study: str = STUDY,
    series: str | None = None,
    digest: str | None = None,
    at: datetime | None = None,
    own: bool = False,
    header: Header | None = None,
) -> Instance:
    """Slice `n` of an axial series, 1.5 mm apart, received `n` seconds after noon."""
    series = series or f"{study}.2"
    place: Header = {"ImagePositionPatient": (-100.0, -100.0, 1.5 * n), "InstanceNumber": (n,)}
    return Instance(
        sop_instance_uid=f"{series}.{n}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=series,
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        archive_key=f"a/b/{n}.dcm",
        size=526_000,
        digest=digest or f"digest {n}",
        calling_ae="CT1",
        called_ae="OSTEONODE",
        received_at=at or later(n),
        header={**AXIAL, **place} if header is None else header,
        own=own,
    )


#: What a proof measures when it finds nothing to complain of.
EXACT = SegmentResidual(
    label="Bone",
    voxels=1000,
    voxels_off=0,
    voxels_differing=0,
    volume_ml=12.5,
    volume_off_ml=0.0,
    centroid_off_mm=0.0,
)


def make_workitem(
    n: int,
    *,
    priority: int = 50,
    at: datetime = NOON,
    destinations: tuple[str, ...] = ("PACS",),
    study: str = STUDY,
    series: str | None = None,
) -> Workitem:
    """A scheduled workitem on a series of the study that no other number has."""
    return Workitem(
        workitem_uid=f"1.9.{n}",
        study_instance_uid=study,
        study_revision=1,
        rule="bones",
        pipeline="ct_skeleton",
        pipeline_version="1.0.0",
        parameters={"threshold": 0.5, "fast": True},
        inputs=(
            WorkitemInput(
                role="ct",
                series_instance_uid=series or f"{study}.{100 + n}",
                sop_instance_uids=(f"{study}.2.1", f"{study}.2.2"),
            ),
        ),
        destinations=destinations,
        priority=priority,
        state=WorkitemState.SCHEDULED,
        scheduled_at=at,
    )


def make_evidence(workitem: Workitem, kind: str) -> Evidence:
    """A SEG or SR of the workitem."""
    return Evidence(
        sop_instance_uid=f"{workitem.workitem_uid}.{1 if kind == 'SEG' else 2}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
        series_instance_uid=f"{workitem.workitem_uid}.8",
        study_instance_uid=workitem.study_instance_uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        workitem_uid=workitem.workitem_uid,
        kind=kind,
        archive_key="a/b/c.dcm",
        size=1000,
        digest="d",
        created_at=later(50),
        profiles=("generic",),
        proof=(EXACT,) if kind == "SEG" else (),
    )


def make_measurement(
    workitem: Workitem, value: float, *, concept: tuple[str, str] = ("118565006", "Volume")
) -> MeasurementRow:
    """A volume of the first segment."""
    return MeasurementRow(
        workitem_uid=workitem.workitem_uid,
        pipeline=workitem.pipeline,
        pipeline_version=workitem.pipeline_version,
        study_instance_uid=workitem.study_instance_uid,
        series_instance_uid=SERIES,
        segment_number=1,
        segment_label="Bone",
        concept_value=concept[0],
        concept_scheme="SCT",
        concept_meaning=concept[1],
        value=value,
        unit="mL",
        measured_at=later(50),
    )


def make_completion(workitem: Workitem, *, owner: str = "node-1") -> Completion:
    """SEG, SR and one value, started a second and ended a minute after noon."""
    return Completion(
        workitem_uid=workitem.workitem_uid,
        owner=owner,
        evidence=(make_evidence(workitem, "SEG"), make_evidence(workitem, "SR")),
        measurements=(make_measurement(workitem, 123.5),),
        started_at=later(1),
        ended_at=later(60),
        timings={"load": 1.25, "infer": 40.0},
        notices=(("cut-off", "The field of view cuts the pelvis."),),
        findings=(
            Finding(
                workitem_uid=workitem.workitem_uid,
                segment_number=1,
                segment_label="Bone",
                tracking_uid=f"{workitem.workitem_uid}.7",
            ),
        ),
        profiles=dict.fromkeys(workitem.destinations, "generic"),
    )


def schedule(index: Index, *planned: Workitem, study: str = STUDY) -> None:
    """Receive an instance more of the study and evaluate it with these workitems."""
    held = studies.get(index, study).revision if _is_known(index, study) else 0
    instances.add(index, make_instance(1000 + held, study=study))
    studies.record_evaluation(
        index,
        study_instance_uid=study,
        revision=held + 1,
        decisions=(),
        workitems=planned,
        now=NOON,
    )


def complete(index: Index, workitem: Workitem) -> None:
    """Schedule, claim and complete a workitem."""
    schedule(index, workitem)
    assert workitems.claim(index, owner="node-1", now=later(1), lease_s=60) is not None
    assert workitems.complete(index, make_completion(workitem))


def run_at_once(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Run each task in a thread of its own; the first failure is raised."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


def _is_known(index: Index, study: str) -> bool:
    return study in {s.study_instance_uid for s in studies.list_studies(index, limit=1000)}
