"""Facts of a series that rules may name besides keywords: derived from its instances, then kept in its row.

Of every series: `calling_ae`, `instances`, `frames` (instances, or the frames of multi-frame ones), `slices`, `own`
(1 or 0), `frames_of_reference` (different ones, of the instances that name one). Of single-frame series whose
instances all say where they lie: `orientations`, and where that is one, `missing_slices`, `duplicate_positions`,
`slice_gap_mm` (median distance of neighbouring slices along the normal) and `slice_gap_irregular_mm` (largest distance
less the smallest). `slices` are the different positions where they are known, else the frames.

What is kept says of how many instances it is (`facts_count`): once another came, the facts are derived anew. A change
of what is derived here needs a migration that sets `facts_count` to NULL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from storage import tables
from storage.index.geometry import Numbers, measure_slices
from storage.index.instances import to_header
from storage.model import HeaderValue, Series


def read_series(connection: Connection, row: Row[Any]) -> Series:
    """A row of `tables.series` with its facts: those kept, or, when instances came since, derived."""
    is_kept = row.facts is not None and row.facts_count == row.instance_count
    return Series(
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        modality=row.modality,
        instance_count=row.instance_count,
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
        header=to_header(row.header),
        facts=row.facts if is_kept else _derive_facts(connection, row),
        own=row.own,
    )


def keep_facts(connection: Connection, series: Iterable[Series]) -> None:
    """Keep the facts of these series, where others or none are kept."""
    table = tables.series
    for one in series:
        count = one.facts.get("instances")
        connection.execute(
            update(table)
            .where(table.c.study_instance_uid == one.study_instance_uid)
            .where(table.c.series_instance_uid == one.series_instance_uid)
            .where(or_(table.c.facts_count.is_(None), table.c.facts_count != count))
            .values(facts=dict(one.facts), facts_count=count)
        )


def _derive_facts(connection: Connection, row: Row[Any]) -> dict[str, HeaderValue]:
    table = tables.instances
    stored = connection.execute(
        select(
            table.c.header["ImagePositionPatient"],
            table.c.header["ImageOrientationPatient"],
            table.c.header["NumberOfFrames"],
            table.c.header["FrameOfReferenceUID"],
        )
        .where(table.c.series_instance_uid == row.series_instance_uid)
        .where(table.c.study_instance_uid == row.study_instance_uid)
    ).all()
    frames = sum(_count_frames(one[2]) for one in stored)
    facts: dict[str, HeaderValue] = {
        "calling_ae": row.calling_ae,
        # Of those that were read: on PostgreSQL another may have been counted since.
        "instances": len(stored),
        "frames": frames,
        "slices": frames,
        "own": int(row.own),
        "frames_of_reference": len({one[3][0] for one in stored if one[3]}),
    }
    # Of a multi-frame instance the header has the first frame's place at most.
    if frames == len(stored):
        facts |= _measure([(one[0], one[1]) for one in stored])
    return facts


def _measure(geometries: Sequence[tuple[Numbers, Numbers]]) -> dict[str, HeaderValue]:
    measured = measure_slices(geometries)
    if measured is None:
        return {}
    found: dict[str, HeaderValue] = {
        "orientations": measured.orientations,
        "slices": measured.slices,
        "duplicate_positions": measured.duplicates,
        "missing_slices": measured.missing,
        "slice_gap_mm": measured.gap_mm,
        "slice_gap_irregular_mm": measured.irregular_mm,
    }
    return {name: value for name, value in found.items() if value is not None}


def _count_frames(stored: Sequence[HeaderValue] | None) -> int:
    """Number of Frames (0028,0008) of one instance; 1 where it has none, or none that is a number."""
    first = stored[0] if stored else None
    return first if isinstance(first, int) and first > 0 else 1
