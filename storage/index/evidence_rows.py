"""Evidence between rows and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Row

from storage.model import Evidence, SegmentResidual


def evidence_from_row(row: Row[Any], *, without: Collection[str] = ()) -> Evidence:
    """A row of the table, as a value; `without` the columns of other tables."""
    return evidence_from_values({n: value for n, value in row._mapping.items() if n not in without})


def evidence_from_values(values: Mapping[str, Any]) -> Evidence:
    """The columns of a row, as a value."""
    return Evidence(
        **{
            **values,
            "profiles": tuple(values["profiles"]),
            "proof": tuple(SegmentResidual(**one) for one in values["proof"]),
            "rejects": tuple(values["rejects"]),
        }
    )
