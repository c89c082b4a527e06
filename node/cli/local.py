"""One pipeline on files of this machine: `osteonode pipelines run`, without a node, an archive or an index."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag

from node.config import Config
from node.errors import ReceiveError
from node.header import read_header
from node.selection import select
from node.sites import site_parameters
from pipelines.errors import InputError
from pipelines.evidence.profile import Profile
from pipelines.evidence.request import Installation
from pipelines.manifest import Manifest
from pipelines.performing import Performed, PerformRequest, choose_device, perform
from pipelines.reading import READ_ERRORS, read_file
from pipelines.registry import PipelineEntry, load_pipeline
from pipelines.uids import derive_workitem_uid
from storage.model import Header, MeasurementRow, Parameters, Rule, Series, utcnow

_TAGS = [
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "SeriesDescription",
    "NumberOfFrames",
]
#: What a rule of the node would say that takes whatever there is.
_ANYTHING = Rule(name="files", pipeline="", where=(), destinations=(), wait_s=0, each=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSeries:
    """The files of one series of one study in a folder."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    description: str
    #: Images: instances, or the frames of multi-frame ones.
    frames: int
    #: SOP Instance UID -> file.
    files: Mapping[str, Path]


def run_on_folder(
    config: Config,
    entry: PipelineEntry,
    path: Path,
    parameters: Parameters,
    *,
    device: str,
    profiles: Mapping[str, Profile],
) -> Performed:
    """Run a pipeline on the series under `path`, as the node would: same UIDs, same evidence.

    Raises
    ------
    PipelineError
        As `pipelines.performing.perform`; also when the folder does not say which series is meant.
    """
    found = {_key(one): one for one in find_series(path)}
    inputs = choose_inputs(entry.manifest, tuple(found.values()))
    chosen = {role: found[_key(series)] for role, series in inputs.items()}
    settings = config.pipelines.settings
    parameters = {
        **site_parameters(settings, entry.manifest.name, inputs.values()),
        **parameters,
    }
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
        profiles=profiles,
    )
    return perform(loaded, request)


def _as_received(found: FoundSeries) -> Series:
    """A series of files as the index would have it; facts of receiving (`calling_ae`) are missing here."""
    now = utcnow()
    count = len(found.files)
    return Series(
        series_instance_uid=found.series_instance_uid,
        study_instance_uid=found.study_instance_uid,
        modality=found.modality,
        instance_count=count,
        first_received_at=now,
        last_received_at=now,
        header=_header_of(next(iter(found.files.values()))),
        facts={"instances": count, "frames": found.frames, "slices": found.frames},
    )


def _header_of(path: Path) -> Header:
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=_beyond_file_meta
        )
        encoded = file.read()
    try:
        return read_header(str(meta.TransferSyntaxUID), encoded).header
    except ReceiveError:
        # The node would not have taken it; here reading the series says what is wrong with it.
        return {}


def _beyond_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 0x0002  # PS3.10 7.1


def find_series(path: Path) -> tuple[FoundSeries, ...]:
    """Series among the files under `path`, by their headers; what is not DICOM is left out."""
    files: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    heads: dict[tuple[str, str], Dataset] = {}
    frames: dict[tuple[str, str], int] = defaultdict(int)
    for file in _files(path):
        try:
            ds = read_file(file, stop_before_pixels=True, only=_TAGS)
            count = int(ds.get("NumberOfFrames") or 1)
        except (InputError, *READ_ERRORS):
            continue
        series, instance = ds.get("SeriesInstanceUID"), ds.get("SOPInstanceUID")
        key = str(ds.get("StudyInstanceUID", "")), str(series)
        if series and instance and str(instance) not in files[key]:
            files[key][str(instance)] = file
            heads[key] = ds
            frames[key] += count
    return tuple(
        FoundSeries(
            study_instance_uid=study,
            series_instance_uid=series,
            modality=str(heads[study, series].get("Modality", "")),
            description=str(heads[study, series].get("SeriesDescription", "")),
            frames=frames[study, series],
            files=found,
        )
        for (study, series), found in sorted(files.items())
        if found
    )


def choose_inputs(manifest: Manifest, found: Sequence[FoundSeries]) -> Mapping[str, Series]:
    """The one set of inputs (role -> series) that the node would make of these files.

    Raises
    ------
    InputError
        When there is none, or more than one.
    """
    optional = tuple(role for role, spec in manifest.inputs.items() if spec.optional)
    rule = replace(_ANYTHING, pipeline=manifest.name, without=optional)
    taken = {modality for spec in manifest.inputs.values() for modality in spec.modality}
    studies: dict[str, list[Series]] = defaultdict(list)
    for one in found:
        if one.modality in taken:
            studies[one.study_instance_uid].append(_as_received(one))
    sets = [
        selected.inputs
        for series in studies.values()
        for selected in select(rule, series, manifest, now=utcnow())
        if selected.inputs
    ]
    if len(sets) == 1:
        return sets[0]
    needs = ", ".join(
        f"{' or '.join(spec.modality)} of at least {spec.min_instances} instances as {role!r}"
        + (" (optional)" if spec.optional else "")
        for role, spec in manifest.inputs.items()
    )
    there = "; ".join(
        f"{s.modality} {s.description!r}, {s.frames} images, {s.series_instance_uid}" for s in found
    )
    raise InputError(
        f"Pipeline {manifest.name} needs one series each: {needs}; "
        + (f"{len(sets)} fit, name a folder that holds one" if sets else "none fits")
        + f": {there or 'no DICOM file there'}.",
        code="input-role-missing",
    )


def _key(series: FoundSeries | Series) -> tuple[str, str]:
    return series.study_instance_uid, series.series_instance_uid


def write_results(performed: Performed, out: Path) -> tuple[Path, ...]:
    """Write evidence, an overlay picture and the table of measurements into `out`; the files written."""
    from pipelines.evidence.overlay import overlay_picture

    out.mkdir(parents=True, exist_ok=True)
    written = []
    kinds = [evidence.kind for evidence in performed.evidence]
    for position, evidence in enumerate(performed.evidence):
        kind = evidence.kind
        # Images of a series, and forms that different profiles want.
        number = f"-{kinds[:position].count(kind) + 1}" if kinds.count(kind) > 1 else ""
        file = out / f"{kind.lower()}{number}.dcm"
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
