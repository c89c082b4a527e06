"""One pipeline on files of this machine: `osteonode pipelines run`, without a node, an archive or an index."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag

from node.config import Config
from node.header import read_header
from node.sites import site_parameters
from pipelines.errors import InputError
from pipelines.evidence.request import Installation
from pipelines.manifest import Manifest
from pipelines.performing import Performed, PerformRequest, choose_device, perform
from pipelines.registry import PipelineEntry, load_pipeline
from pipelines.uids import derive_workitem_uid
from storage.model import MeasurementRow, Parameters, Series, utcnow

_TAGS = ["SOPInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """The files of one series in a folder."""

    series_instance_uid: str
    modality: str
    description: str
    #: SOP Instance UID -> file.
    files: Mapping[str, Path]


def run_on_folder(
    config: Config, entry: PipelineEntry, path: Path, parameters: Parameters, device: str
) -> Performed:
    """Run a pipeline on the series under `path`, as the node would: same UIDs, same evidence.

    Raises
    ------
    PipelineError
        As `pipelines.performing.perform`; also when the folder does not say which series is meant.
    """
    chosen = choose_inputs(entry.manifest, find_series(path))
    site = _site_parameters(config, entry.manifest.name, next(iter(chosen.values())))
    parameters = {**site, **parameters}
    loaded = load_pipeline(entry, choose_device(device))
    request = PerformRequest(
        workitem_uid=derive_workitem_uid(
            config.node.uid_root,
            pipeline=entry.manifest.name,
            version=entry.manifest.version,
            parameters=entry.manifest.merge(parameters),
            sop_instance_uids=[uid for series in chosen.values() for uid in series.files],
        ),
        inputs={role: tuple(series.files.values()) for role, series in chosen.items()},
        parameters=parameters,
        started_at=utcnow(),
        installation=Installation(
            institution=config.node.institution,
            serial_number=config.node.serial_number,
            uid_root=config.node.uid_root,
            software_version=version("osteonode"),
        ),
    )
    return perform(loaded, request)


def _site_parameters(config: Config, pipeline: str, found: FoundSeries) -> Parameters:
    """What `[pipelines] settings` say about a series of files; facts of receiving (`calling_ae`) are missing here."""
    if not config.pipelines.settings.get(pipeline):
        return {}
    with next(iter(found.files.values())).open("rb") as file:
        read_preamble(file, force=False)
        meta = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=_beyond_file_meta
        )
        encoded = file.read()
    now = utcnow()
    parsed = read_header(str(meta.TransferSyntaxUID), encoded)
    series = Series(
        series_instance_uid=found.series_instance_uid,
        study_instance_uid=parsed.study_instance_uid,
        modality=found.modality,
        instance_count=len(found.files),
        first_received_at=now,
        last_received_at=now,
        header=parsed.header,
        facts={"instances": len(found.files)},
    )
    return site_parameters(config.pipelines.settings, pipeline, series)


def _beyond_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 0x0002  # PS3.10 7.1


def find_series(path: Path) -> tuple[FoundSeries, ...]:
    """Series among the files under `path`, by their headers; what is not DICOM is left out."""
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    heads: dict[str, tuple[str, str]] = {}
    for file in _files(path):
        try:
            ds = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        except (InvalidDicomError, OSError, EOFError, ValueError):
            continue
        uid, instance = ds.get("SeriesInstanceUID"), ds.get("SOPInstanceUID")
        if uid and instance:
            files[str(uid)].setdefault(str(instance), file)
            heads[str(uid)] = str(ds.get("Modality", "")), str(ds.get("SeriesDescription", ""))
    return tuple(
        FoundSeries(
            series_instance_uid=uid, modality=heads[uid][0], description=heads[uid][1], files=found
        )
        for uid, found in sorted(files.items())
    )


def choose_inputs(manifest: Manifest, found: Sequence[FoundSeries]) -> dict[str, FoundSeries]:
    """The one series of the folder that each role can take.

    Raises
    ------
    InputError
        When there is none, or more than one.
    """
    chosen = {}
    for role, demand in manifest.inputs.items():
        fit = [
            series
            for series in found
            if series.modality in demand.modality and len(series.files) >= demand.min_instances
        ]
        if len(fit) != 1:
            there = "; ".join(
                f"{s.modality} {s.description!r}, {len(s.files)} instances, {s.series_instance_uid}"
                for s in fit or found
            )
            raise InputError(
                f"Pipeline {manifest.name} needs one {' or '.join(demand.modality)} series of at least "
                f"{demand.min_instances} instances as {role!r}; "
                + (f"{len(fit)} fit, name a folder that holds one" if fit else "none fits")
                + f": {there or 'no DICOM file there'}.",
                code="input-role-missing",
            )
        chosen[role] = fit[0]
    return chosen


def write_results(performed: Performed, out: Path) -> tuple[Path, ...]:
    """Write evidence, an overlay picture and the table of measurements into `out`; the files written."""
    from pipelines.evidence.overlay import overlay_picture

    out.mkdir(parents=True, exist_ok=True)
    written = []
    for evidence in performed.evidence:
        file = out / f"{evidence.kind.lower()}.dcm"
        file.write_bytes(evidence.encoded)
        written.append(file)
    picture = out / "overlay.png"
    overlay_picture(performed.sources[performed.result.role], performed.result, picture)
    return (*written, picture, _write_table(performed.measurements, out / "measurements.csv"))


def _write_table(rows: Sequence[MeasurementRow], file: Path) -> Path:
    names = [field.name for field in fields(MeasurementRow)]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[getattr(row, name) for name in names] for row in rows])
    return file


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from sorted(one for one in path.rglob("*") if one.is_file())
