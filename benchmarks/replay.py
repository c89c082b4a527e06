"""How long a rule takes to be tried on the past: `osteonode rules test NAME --since 30d` on a synthetic index.

    python benchmarks/replay.py [--series 100000] [--rounds 3] [--database URL] [--json FILE]

The index has five series per study (two CTs, reformats, a scout, an MR), each with a header of a hundred attributes and
kept facts, twenty rules of which five run the same pipeline, and a completed workitem for every fourth study. Seconds
are the whole replay: reading, matching, choosing, comparing with today's rules, cost, and the queue.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from migrations.commands import upgrade
from node.replay import Circumstances, Replay, replay
from pipelines.registry import find_pipelines
from storage import tables
from storage.index import Index, open_index
from storage.model import Rule

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
DAYS = 30
SERIES_PER_STUDY = 5
CHUNK = 5000
#: What a header has besides: as many attributes, and as many bytes, as a CT's.
PADDING = {f"Padding{n:02d}": [f"value {n} of a header, as long as such are"] for n in range(85)}
#: Description, modality, slices, thickness, kernel, image type.
KINDS = (
    ("Thorax BONE 1.0", "CT", 320, 1.0, "Br64", ["ORIGINAL", "PRIMARY", "AXIAL"]),
    ("Thorax STD 5.0", "CT", 70, 5.0, "Br36", ["ORIGINAL", "PRIMARY", "AXIAL"]),
    ("Thorax BONE cor", "CT", 120, 3.0, "Br64", ["DERIVED", "SECONDARY", "REFORMATTED"]),
    ("Topogram", "CT", 1, 0.6, "Tr20", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    ("T1 SE sag", "MR", 18, 4.0, None, ["ORIGINAL", "PRIMARY", "M", "SE"]),
)
RULE = Rule(
    name="candidate",
    pipeline="ct_skeleton",
    where=(
        "Modality = CT",
        "SeriesDescription ~ (?i)bone|body",
        "SliceThickness <= 3",
        "ImageType !~ LOCALIZER",
    ),
    destinations=(),
    prefer=("ConvolutionKernel ~ (?i)^br6",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured."""

    database: str
    series: int
    studies: int
    runs: int
    new_runs: int
    rounds: int
    #: Median on the wall, and of one core: they differ on a busy machine.
    seconds: float
    cpu_s: float
    slowest_s: float
    rss_mb: float


def main() -> int:
    """Run, print; exit status 1 when 100,000 series would take 10 s or more."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database", help="SQLAlchemy URL of an empty database; else SQLite.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        url = options.database or f"sqlite:///{folder}/index.sqlite"
        print(f"making an index of {options.series} series ...", flush=True)
        upgrade(url)
        with open_index(url) as index:
            fill(index, options.series)
            figure = measure(index, options.rounds)
    show(figure)
    if options.json:
        options.json.write_text(json.dumps(asdict(figure), indent=2))
    return 1 if figure.seconds * 100_000 >= 10 * figure.series else 0


def measure(index: Index, rounds: int) -> Figure:
    """The same replay, so many times."""
    circumstances = Circumstances(
        manifests=find_pipelines().manifests,
        rules=rules_in_force(),
        since=NOW - timedelta(days=DAYS),
        now=NOW,
        workers=1,
        quiet_s=60,
    )
    seconds: list[float] = []
    cpu: list[float] = []
    for turn in range(rounds):
        began = time.perf_counter(), time.process_time()
        (found,) = replay(index, [RULE], circumstances)
        seconds.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
        print(f"round {turn + 1}: {seconds[-1]:.2f} s, {cpu[-1]:.2f} s of a core", flush=True)
    return _figure(index, found, seconds, cpu)


def _figure(index: Index, found: Replay, seconds: list[float], cpu: list[float]) -> Figure:
    return Figure(
        database=index.dialect,
        series=found.series,
        studies=found.studies,
        runs=found.runs,
        new_runs=found.new_runs,
        rounds=len(seconds),
        seconds=round(statistics.median(seconds), 2),
        cpu_s=round(statistics.median(cpu), 2),
        slowest_s=round(max(seconds), 2),
        rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )


def rules_in_force() -> list[Rule]:
    """Twenty rules, five of them for the candidate's pipeline."""
    return [
        Rule(
            name=f"rule{n}",
            pipeline="ct_skeleton" if n < 5 else "ct_trunk_muscle",
            where=("Modality = CT", f"StationName = CT{n}", "SliceThickness <= 2", "slices > 30"),
            destinations=(),
        )
        for n in range(20)
    ]


def show(figure: Figure) -> None:
    """The table."""
    for name, value in asdict(figure).items():
        print(f"{name:10} {value}")


# -- the index ------------------------------------------------------------------------------------


def fill(index: Index, count: int) -> None:
    """So many series, five to a study, over the last thirty days; a completed workitem for every fourth study."""
    chance = random.Random(1)  # noqa: S311 - the same index each time
    studies = count // SERIES_PER_STUDY
    rows: dict[str, list[dict[str, Any]]] = {"studies": [], "series": [], "workitems": []}
    for n in range(studies):
        came = NOW - timedelta(days=DAYS) * (studies - n - 0.5) / studies
        study = f"1.2.826.0.1.3680043.8.498.{n}"
        rows["studies"].append(_study(study, came))
        station = f"CT{chance.randrange(12)}"
        rows["series"] += [
            _series(f"{study}.{k}", study, station, came, kind) for k, kind in enumerate(KINDS)
        ]
        if n % 4 == 0:
            rows["workitems"].append(_workitem(n, study, came, chance.uniform(20, 60)))
        if len(rows["series"]) >= CHUNK or n == studies - 1:
            with index.begin() as connection:
                for name, made in rows.items():
                    if made:
                        connection.execute(insert(tables.metadata.tables[name]), made)
                    made.clear()


def _study(uid: str, came: datetime) -> dict[str, Any]:
    return {
        "study_instance_uid": uid,
        "patient_id": "P",
        "accession_number": "A",
        "study_date": "20260301",
        "study_description": "Thorax",
        "revision": 1,
        "evaluated_revision": 1,
        "series_count": SERIES_PER_STUDY,
        "instance_count": 500,
        "first_received_at": came,
        "last_received_at": came,
    }


def _series(uid: str, study: str, station: str, came: datetime, kind: Any) -> dict[str, Any]:
    description, modality, slices, thickness, kernel, image_type = kind
    header = {
        **PADDING,
        "Modality": [modality],
        "SeriesDescription": [description],
        "StationName": [station],
        "SliceThickness": [thickness],
        "ImageType": image_type,
        "FrameOfReferenceUID": [f"{study}.9"],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        **({"ConvolutionKernel": [kernel]} if kernel else {}),
    }
    facts = {"calling_ae": station, "instances": slices, "frames": slices, "slices": slices}
    return {
        "study_instance_uid": study,
        "series_instance_uid": uid,
        "modality": modality,
        "calling_ae": station,
        "own": False,
        "instance_count": slices,
        "first_received_at": came,
        "last_received_at": came,
        "header": header,
        "facts": facts,
        "facts_count": slices,
    }


def _workitem(n: int, study: str, came: datetime, seconds: float) -> dict[str, Any]:
    started = came + timedelta(seconds=65)
    return {
        "workitem_uid": f"2.25.{n}",
        "study_instance_uid": study,
        "study_revision": 1,
        "rule": "rule1",
        "pipeline": "ct_skeleton",
        "pipeline_version": "1.2.0",
        "parameters": {},
        "destinations": [],
        "priority": 50,
        "state": "COMPLETED",
        "scheduled_at": came + timedelta(seconds=60),
        "attempts": 1,
        "started_at": started,
        "ended_at": started + timedelta(seconds=seconds),
        "timings": {},
    }


if __name__ == "__main__":
    sys.exit(main())
