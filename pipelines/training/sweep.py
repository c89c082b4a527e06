"""What several runs come to: the table of a sweep, cross-validation; and what a finished run leaves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipelines.training.assess import summaries_of
from pipelines.training.checkpoint import write_whole
from pipelines.training.figures import Record, Spread, Summary
from pipelines.training.options import RunReport, SweepRow

_DONE_NAME = "done.json"


def sweep_of(reports: Sequence[RunReport]) -> tuple[SweepRow, ...]:
    """Return a row for each width and number of epochs."""
    alike: dict[tuple[object, int], list[RunReport]] = defaultdict(list)
    for report in reports:
        alike[report.run.widths, report.run.epochs].append(report)
    return tuple(_row(runs) for runs in alike.values())


def _row(runs: Sequence[RunReport]) -> SweepRow:
    first = runs[0]
    variants = dict.fromkeys(record.variant for record in first.records)
    return SweepRow(
        widths=first.run.widths,
        epochs=first.run.epochs,
        runs=len(runs),
        parameters=first.parameters,
        validation_loss=_spread(
            [run.validation_loss for run in runs if run.validation_loss is not None], highest=True
        ),
        dice={
            variant: _spread([_mean_dice(run, variant) for run in runs], highest=False)
            for variant in variants
        },
        minutes=float(np.mean([run.seconds for run in runs])) / 60,
    )


def _mean_dice(run: RunReport, variant: str) -> float:
    """Over the structures that there are in the truth."""
    values = [
        record.figures.dice
        for record in run.records
        if record.variant == variant and record.figures.true_volume_ml > 0
    ]
    return float(np.mean(values)) if values else float("nan")


def _spread(values: Sequence[float], *, highest: bool) -> Spread:
    known = np.asarray([value for value in values if np.isfinite(value)])
    if not known.size:
        return Spread(mean=float("nan"), sd=float("nan"), worst=float("nan"))
    worst = known.max() if highest else known.min()
    return Spread(mean=float(known.mean()), sd=float(known.std()), worst=float(worst))


def cross_validation_of(
    reports: Sequence[RunReport],
) -> Mapping[str, Mapping[str, Summary]]:
    """Return variant -> structure -> figures over the studies of all folds; empty without folds or in a sweep."""
    kinds = {(report.run.widths, report.run.epochs, report.run.seed) for report in reports}
    folds = {report.run.fold for report in reports}
    if None in folds or len(folds) < 2 or len(kinds) > 1:
        return {}
    records = [record for report in reports for record in report.records]
    by_variant: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_variant[record.variant].append(record)
    return {variant: summaries_of(ours) for variant, ours in by_variant.items()}


# -- finished runs --------------------------------------------------------------------------------


def write_done(report: RunReport, folder: Path) -> None:
    """Keep a finished run's report for when the command is given again."""
    write_whole(folder / _DONE_NAME, json.dumps(asdict(report), default=str).encode())


def read_done(folder: Path, steps: int | None) -> RunReport | None:
    """Return the report of a run that is finished, as long as was asked; None: there is none."""
    try:
        # Python's JSON has NaN, which strict JSON does not.
        content = json.loads((folder / _DONE_NAME).read_text("utf-8"))
        report = TypeAdapter(RunReport).validate_python(content)
    except (OSError, ValueError, ValidationError):
        return None
    whole = report.weights.exists() and (steps is None or report.steps == steps)
    return report if whole else None
