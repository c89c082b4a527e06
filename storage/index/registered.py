"""The registry of UIDs that we gave: of evidence, its series, its findings, and the algorithms that made it."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import literal, select, union_all

from storage import tables
from storage.index.engine import Index

#: UIDs of one question: SQLite takes 32,766 parameters, and each stands five times.
_AT_ONCE = 5000


def is_any(index: Index, uids: Collection[str]) -> bool:
    """Whether one of these is ours, or of an instance that was recognised as ours."""
    ordered = sorted(uids)
    held = tables.instances
    with index.read() as connection:
        for start in range(0, len(ordered), _AT_ONCE):
            chunk = ordered[start : start + _AT_ONCE]
            found = union_all(
                *(
                    select(literal(1)).where(column.in_(chunk))
                    for column in (
                        tables.evidence.c.sop_instance_uid,
                        tables.evidence.c.series_instance_uid,
                        tables.findings.c.tracking_uid,
                        tables.pipelines.c.device_uid,
                    )
                ),
                select(literal(1)).where(held.c.sop_instance_uid.in_(chunk), held.c.own),
            )
            if connection.execute(found.limit(1)).first() is not None:
                return True
    return False
