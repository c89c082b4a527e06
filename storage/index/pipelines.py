"""Pipelines this node has had: each version with the digest of its weights."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select

from storage import tables
from storage.index.engine import Index
from storage.index.values import insert_or_ignore
from storage.model import PipelineSeen

_table = tables.pipelines


def saw(index: Index, pipeline: PipelineSeen) -> bool:
    """Remember a pipeline's version; whether it is new. The first time it was seen stays."""
    with index.begin() as connection:
        return insert_or_ignore(connection, _table, asdict(pipeline))


def list_pipelines(index: Index) -> tuple[PipelineSeen, ...]:
    """All versions ever seen, by name and time."""
    statement = select(_table).order_by(_table.c.name, _table.c.first_seen_at, _table.c.device_uid)
    with index.read() as connection:
        return tuple(PipelineSeen(**row._mapping) for row in connection.execute(statement))
