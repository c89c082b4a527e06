"""The whole way in one command, on this machine: what `osteonode demo` does.

A node on defaults and a small PACS are started, a computed phantom (or the user's own folder) is sent by C-STORE, and
what the PACS gets back is kept as files. Nothing is special to the demo: the PACS is the node's own listener with an
archive and an index of its own.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from migrations.commands import upgrade
from node.config import Config, load
from node.demo_study import write_demo_study
from node.errors import ConfigError, DeliveryError, PerformError
from node.scp import Scp
from node.scu import Outcome, send_paths
from node.service import Service
from pipelines.evidence.overlay import overlay_picture
from pipelines.manifest import Manifest, SegmentSpec
from pipelines.registry import PipelineEntry, find_pipelines
from pipelines.result import AnalysisResult, Segment
from pipelines.series import read_series
from storage.archive import Archive
from storage.index import (
    Index,
    deliveries,
    destinations,
    instances,
    measurements,
    open_index,
    rules,
    studies,
    workitems,
)
from storage.model import (
    DeliveryState,
    Destination,
    MeasurementRow,
    Rule,
    Workitem,
    WorkitemState,
)

PACS = "DEMOPACS"
#: Shorter than in a hospital, where modalities pause.
QUIET_S = 2.0
#: Seconds the demo waits beyond the pipeline's own limit.
PATIENCE_S = 120.0
_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far the demo is."""

    what: str
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What came back, and where all lies."""

    config: Path
    study_instance_uid: str
    workitems: tuple[Workitem, ...]
    measurements: tuple[MeasurementRow, ...]
    #: DICOM files as the PACS received them.
    came_back: tuple[Path, ...]
    #: None when nothing was segmented.
    picture: Path | None
    #: Seconds: receive, wait, load, infer, encode, deliver ...
    times: tuple[tuple[str, float], ...]


def demo(  # noqa: PLR0913 - one per thing that can be asked
    base: Config,
    *,
    study: Path | None,
    pipeline: str,
    profile: str,
    out: Path,
    on_step: Callable[[Step], None],
) -> DemoReport:
    """Send a study through a node to a small PACS and back.

    Parameters
    ----------
    base
        Where pipelines of one's own lie and what scanners need; all other settings are the demo's.
    study
        Folder of DICOM files; the pipeline's demo study when None.
    pipeline
        Name of the pipeline to run.
    profile
        What the small PACS gets of the result.
    out
        Folder for all that is written; each demo makes a folder in it.

    Raises
    ------
    NodeError, PipelineError, StorageError
        With what to do about it.
    """
    entry = find_pipelines(base.pipelines.folders).get(pipeline)
    manifest = entry.manifest
    base.evidence.profile(profile)
    folder = out / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    files = _study_files(study, entry, folder, on_step)
    with ExitStack() as stack:
        pacs = _start_pacs(folder, stack)
        config = _configure(folder, base)
        upgrade(config.database_url)
        index = stack.enter_context(open_index(config.database_url))
        _route(index, manifest, pacs.port, profile)
        on_step(Step(what="starting the node"))
        stack.enter_context(Service(config))
        began = time.monotonic()
        _send(config, files, on_step)
        sent = time.monotonic() - began
        uid = studies.list_studies(index, limit=1)[0].study_instance_uid
        patience = manifest.limits.time_s + PATIENCE_S
        _wait(index, uid, patience, on_step)
        done = workitems.list_workitems(index, study=uid)
        return DemoReport(
            config=folder / "config.toml",
            study_instance_uid=uid,
            workitems=done,
            measurements=measurements.list_measurements(index, study=uid),
            came_back=(came_back := _keep(pacs, folder / "came-back")),
            picture=_draw(manifest, files, came_back, folder / "overlay.png"),
            times=(("receive", sent), *time_split(index, uid, done)),
        )


# -- the parts ------------------------------------------------------------------------------------


def _study_files(
    study: Path | None, entry: PipelineEntry, folder: Path, on_step: Callable[[Step], None]
) -> list[Path]:
    if study is not None:
        return [study]
    on_step(Step(what="computing a phantom"))
    return write_demo_study(entry, folder / "study")


def _configure(folder: Path, base: Config) -> Config:
    """Defaults, but for a short quiet time and this machine only; kept, so that the CLI can look at it afterwards."""
    path = folder / "config.toml"
    own = json.dumps([str(one.absolute()) for one in base.pipelines.folders])
    path.write_text(
        f'[node]\nhost = "{_LOCAL}"\nport = {_port(11112)}\n\n'
        f"[routing]\nquiet_s = {QUIET_S}\n\n[pipelines]\nfolders = {own}\n"
        f"{_settings(base)}{_profiles(base)}",
        encoding="utf-8",
    )
    return load(path)


def _settings(base: Config) -> str:
    """The site's settings by scanner as TOML, of which JSON's texts, numbers and lists are a part."""
    tables = []
    for name, entries in base.pipelines.settings.items():
        for entry in entries:
            values = ", ".join(f"{key} = {json.dumps(v)}" for key, v in entry.parameters.items())
            where = json.dumps(entry.where)
            tables.append(
                f"\n[[pipelines.settings.{name}]]\nwhere = {where}\nparameters = {{ {values} }}\n"
            )
    return "".join(tables)


def _profiles(base: Config) -> str:
    return "".join(
        f"\n[evidence.profiles.{name}]\n"
        + "".join(f"{key} = {json.dumps(v)}\n" for key, v in one.model_dump(mode="json").items())
        for name, one in base.evidence.profiles.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pacs:
    port: int
    archive: Archive
    index: Index


def _start_pacs(folder: Path, stack: ExitStack) -> _Pacs:
    port = _port(11113)
    config = Config.model_validate(
        {"node": {"ae_title": PACS, "host": _LOCAL, "port": port, "data": folder / "pacs"}}
    )
    upgrade(config.database_url)
    index = stack.enter_context(open_index(config.database_url))
    archive = Archive(config.archive_url)
    stack.enter_context(Scp(config, archive, index))
    return _Pacs(port=port, archive=archive, index=index)


def _port(wanted: int) -> int:
    """The usual port, or a free one when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOCAL, wanted))
        except OSError:
            probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])


def _route(index: Index, manifest: Manifest, port: int, profile: str) -> None:
    destination = Destination(name=PACS, host=_LOCAL, port=port, called_ae=PACS, profile=profile)
    destinations.add(index, destination, actor="demo")
    modalities = sorted({m for demand in manifest.inputs.values() for m in demand.modality})
    rule = Rule(
        name="demo",
        pipeline=manifest.name,
        where=(f"Modality in {', '.join(modalities)}",),
        destinations=(PACS,),
        # What is sent is all there is: nothing is waited for.
        wait_s=0,
        each=True,
        without=tuple(role for role, spec in manifest.inputs.items() if spec.optional),
    )
    rules.add(index, rule, actor="demo")


# -- the way --------------------------------------------------------------------------------------


def _send(config: Config, files: Sequence[Path], on_step: Callable[[Step], None]) -> None:
    node = Destination(
        name="The node", host=_LOCAL, port=config.node.port, called_ae=config.node.ae_title
    )
    done = 0
    for progress in send_paths(
        node, files, calling_ae="DEMOCT", timeout_s=config.delivery.timeout_s
    ):
        if progress.status is not None and progress.status.outcome is not Outcome.DELIVERED:
            raise DeliveryError(f"{progress.path}: {progress.status.message}")
        done += progress.status is not None
        on_step(Step(what="sending by C-STORE", done=done, total=progress.total))
    if not done:
        raise ConfigError(f"{files[0]}: there is no DICOM instance.")


def _wait(index: Index, uid: str, patience_s: float, on_step: Callable[[Step], None]) -> None:
    """Until everything is delivered.

    Raises
    ------
    PerformError
        When no rule matched, a workitem failed, or it took too long.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        done = workitems.list_workitems(index, study=uid)
        owed = deliveries.list_deliveries(index, study=uid)
        study = studies.get(index, uid)
        for workitem in done:
            if workitem.state is WorkitemState.CANCELED:
                raise PerformError(
                    workitem.reason_code or "failed", workitem.reason or "It failed."
                )
        if study.evaluated_revision < study.revision:
            on_step(Step(what=f"waiting until the study is quiet ({QUIET_S:g} s)"))
        elif not done:
            reasons = " ".join(d.reason for d in studies.decisions(index, uid))
            raise PerformError(
                "no-match", f"No series of the study is for this pipeline. {reasons}"
            )
        elif any(workitem.state is not WorkitemState.COMPLETED for workitem in done):
            on_step(Step(what=f"running {done[0].pipeline}"))
        else:
            sent = sum(delivery.state is DeliveryState.SENT for delivery in owed)
            on_step(Step(what="delivering evidence", done=sent, total=len(owed)))
            if sent == len(owed):
                return
        time.sleep(0.1)
    raise PerformError("time-limit", f"No result within {patience_s:g} s.")


def time_split(index: Index, uid: str, done: Sequence[Workitem]) -> tuple[tuple[str, float], ...]:
    """Seconds from the last instance received to the last delivery, step by step (of the last workitem)."""
    last = max(done, key=lambda workitem: workitem.ended_at or workitem.scheduled_at)
    owed = deliveries.list_deliveries(index, workitem=last.workitem_uid)
    received = studies.get(index, uid).last_received_at
    started, ended = last.started_at or received, last.ended_at or received
    delivered = max((delivery.updated_at for delivery in owed), default=ended)
    ran = (ended - started).total_seconds()
    return (
        ("wait", (started - received).total_seconds()),
        ("start worker", max(0.0, ran - sum(last.timings.values()))),
        *last.timings.items(),
        ("deliver", (delivered - ended).total_seconds()),
    )


# -- what came back -------------------------------------------------------------------------------


def _keep(pacs: _Pacs, folder: Path) -> tuple[Path, ...]:
    """The PACS's files under readable names."""
    folder.mkdir()
    kept = []
    for study in studies.list_studies(pacs.index, limit=10):
        for series in studies.series_of(pacs.index, study.study_instance_uid):
            for instance in instances.of_series(pacs.index, series.series_instance_uid):
                path = folder / f"{series.modality}-{instance.sop_instance_uid[-12:]}.dcm"
                with pacs.archive.open(instance.archive_key) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
                kept.append(path)
    return tuple(sorted(kept))


def _draw(
    manifest: Manifest, files: Sequence[Path], came_back: Sequence[Path], picture: Path
) -> Path | None:
    """The first SEG as the PACS has it, drawn over the series it was made of."""
    segs = [path for path in came_back if path.name.startswith("SEG-")]
    if not segs:
        return None
    seg = hd.seg.segread(segs[0])
    source = read_series(_files_of(str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID), files))
    found = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    result = AnalysisResult(
        role=next(iter(manifest.inputs)),
        # The SEG has the slices where something is; the picture wants all.
        label_map=found.match_geometry(source.volume).astype(np.uint16),
        segments=tuple(
            Segment(
                number=int(item.SegmentNumber),
                spec=_spec_of(item, manifest),
                label=item.SegmentLabel,
            )
            for item in seg.SegmentSequence
        ),
    )
    overlay_picture(source, result, picture)
    return picture


def _spec_of(item: Dataset, manifest: Manifest) -> SegmentSpec:
    """What the manifest says of an item of Segment Sequence: by label, or by property type for one of many alike."""
    (kind,) = item.SegmentedPropertyTypeCodeSequence
    labelled = [spec for spec in manifest.segments if spec.label == item.SegmentLabel]
    alike = [
        spec
        for spec in manifest.segments
        if (spec.type.value, spec.type.scheme) == (kind.CodeValue, kind.CodingSchemeDesignator)
    ]
    return (*labelled, *alike, *manifest.segments)[0]


def _files_of(series_instance_uid: str, paths: Sequence[Path]) -> list[Path]:
    """The files of one series among files and folders."""
    found = []
    for path in (file for top in paths for file in (top.rglob("*") if top.is_dir() else [top])):
        try:
            ds = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except (InvalidDicomError, OSError):
            continue
        if ds.get("SeriesInstanceUID") == series_instance_uid:
            found.append(path)
    return found
