"""Reports as tables for people (Markdown): of an evaluation, for the model card, and of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.errors import TrainingError
from pipelines.training.assess import ALL_STRUCTURES
from pipelines.training.checkpoint import write_whole
from pipelines.training.figures import Spread, Summary
from pipelines.training.options import EvaluateReport, TrainReport
from pipelines.training.recipe import Recipe

TABLE_NAME = "report.md"
#: The table of a model card stands between these lines.
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

_FIGURES = {
    "dice": "Dice (= F1)",
    "iou": "IoU",
    "sensitivity": "sensitivity (recall)",
    "specificity": "specificity",
    "precision": "precision",
    "accuracy": "accuracy",
    "surface_mm": "average surface distance, mm",
    "hausdorff95_mm": "95 % Hausdorff distance, mm",
}
_NONE = "-"


def write_table(recipe: Recipe, report: EvaluateReport, folder: Path) -> Path:
    """Write an evaluation as Markdown and return its path.

    Raises
    ------
    TrainingError
        `training-disk`.
    """
    path = folder / TABLE_NAME
    write_whole(path, evaluation_markdown(recipe, report).encode())
    return path


def evaluation_markdown(recipe: Recipe, report: EvaluateReport) -> str:
    """Return the table: the publication's figures beside ours, which say what they are of."""
    kind, _, which = report.data.partition(": ")
    lines = [
        f"**{kind.capitalize()}**: {which}. Mean (SD; worst).",
        *(
            [
                "The publication's figures are of clinical data: the columns do not compare like with like."
            ]
            if recipe.published and kind == "phantom data"
            else []
        ),
        "",
    ]
    for structure in _structures(report):
        if len(_structures(report)) > 1:
            lines += [f"**{structure}**", ""]
        lines += [*_table(recipe, report, structure), ""]
    lines += [*_area_table(recipe, report), *_group_table(report), *_costs(report)]
    return "\n".join(lines).rstrip() + "\n"


def _structures(report: EvaluateReport) -> list[str]:
    """All together first."""
    names = list(dict.fromkeys(name for found in report.summaries.values() for name in found))
    return sorted(names, key=lambda name: name != ALL_STRUCTURES)


def _table(recipe: Recipe, report: EvaluateReport, structure: str) -> Iterator[str]:
    kind = report.data.partition(":")[0]
    columns = {variant: found[structure] for variant, found in report.summaries.items()}
    headings = [f"{kind}, {variant}" if len(columns) > 1 else kind for variant in columns]
    if recipe.published:
        headings.insert(0, f"publication, {recipe.published_on}".rstrip(", "))
    yield from _head(("", *headings))
    for key, name in _FIGURES.items():
        cells = [_spread(summary.figures[key], _digits(key)) for summary in columns.values()]
        yield _row(name, *_published(recipe, key), *cells)
    agreements = [_agreement(summary.agreement) for summary in columns.values()]
    yield _row("volume: R2; bias (limits of agreement), mL", *_published(recipe, "r2"), *agreements)
    counts = [_counts(summary) for summary in columns.values()]
    yield _row(
        "studies with it (missed); without (found all the same)", *_published(recipe, ""), *counts
    )


def _published(recipe: Recipe, key: str) -> list[str]:
    if not recipe.published:
        return []
    return [f"{recipe.published[key]:g}" if key in recipe.published else ""]


def _group_table(report: EvaluateReport) -> Iterator[str]:
    groups = list(dict.fromkeys(name for found in report.groups.values() for name in found))
    if not groups:
        return
    variants = list(report.groups)
    yield from _head(("group", "studies", *(f"Dice, {variant}" for variant in variants)))
    for group in groups:
        overall = [_overall(report.groups[variant][group]) for variant in variants]
        studies = len({record.case for record in report.records if record.group == group})
        yield _row(group, str(studies), *(_spread(summary.figures["dice"]) for summary in overall))
    yield ""


def _area_table(recipe: Recipe, report: EvaluateReport) -> Iterator[str]:
    """Areas under the ROC curves of lesions, and DeLong's test between variants."""
    if not report.areas or recipe.rated is None:
        return
    positive, negative = (recipe.structures[value] for value in recipe.rated)
    yield from _head((f"{positive} against {negative}, by lesion", "AUC (95 % CI)", "lesions"))
    for variant, area in report.areas.items():
        span = f"{_number(area.auc)} ({_number(area.lower)} to {_number(area.upper)})"
        yield _row(variant, span, f"{area.positives} and {area.negatives}")
    yield ""
    yield from _head(("DeLong's test", "difference of AUC", "z", "p"))
    for one in report.area_differences:
        p = "< 0.0001" if one.p < 1e-4 else _number(one.p)
        yield _row(f"{one.first} - {one.second}", _number(one.auc), _number(one.z, 2), p)
    yield ""


def _overall(summaries: Mapping[str, Summary]) -> Summary:
    return summaries.get(ALL_STRUCTURES) or next(iter(summaries.values()))


def _costs(report: EvaluateReport) -> Iterator[str]:
    seconds = ", ".join(
        f"{variant} {spent:.3g} s a study ({report.seconds_per_slice[variant]:.3g} s a slice)"
        for variant, spent in report.seconds_per_study.items()
    )
    gpu = f", of the GPU {report.peak_gpu_memory_mb:,.0f} MB" if report.peak_gpu_memory_mb else ""
    yield f"Time on {report.device}: {seconds}. Peak memory {report.peak_memory_mb:,.0f} MB, the data included{gpu}."
    if any(report.refused.values()):
        counts = ", ".join(f"{variant} {count}" for variant, count in report.refused.items())
        yield f"Refused by the pipeline, and in no figure: {counts}."
    if report.worst is not None:
        worst = report.worst
        yield f"Lowest Dice: {_number(worst.dice)} ({worst.case}, {worst.variant})."


# -- training -------------------------------------------------------------------------------------


def write_training_table(report: TrainReport, folder: Path) -> Path:
    """Write what several runs came to as Markdown and return its path.

    Raises
    ------
    TrainingError
        `training-disk`.
    """
    path = folder / TABLE_NAME
    write_whole(path, training_markdown(report).encode())
    return path


def training_markdown(report: TrainReport) -> str:
    """Return the runs, the sweep, and the figures of cross-validation."""
    kind, _, which = report.data.partition(": ")
    lines = [f"**{kind.capitalize()}**: {which}.", ""]
    lines += _head(("run", "steps", "validation loss (step kept)", "minutes", "SHA-256"))
    for one in report.runs:
        kept = f"{_number(one.validation_loss)} ({one.best_step})"
        lines.append(
            _row(
                one.run.name or _NONE,
                str(one.steps),
                kept,
                f"{one.seconds / 60:.1f}",
                one.sha256[:12],
            )
        )
    if report.sweep:
        variants = list(report.sweep[0].dice)
        headings = ("widths", "weights", "epochs", "runs", "validation loss", "minutes a run")
        lines += ["", "Mean (SD; worst) over runs.", ""]
        lines += _head((*headings, *(f"Dice, {variant}" for variant in variants)))
        for row in report.sweep:
            widths = " ".join(map(str, row.widths)) if row.widths else "as shipped"
            counts = (f"{row.parameters:,}", str(row.epochs), str(row.runs))
            dice = [_spread(row.dice[variant]) for variant in variants]
            loss = _spread(row.validation_loss)
            lines.append(_row(widths, *counts, loss, f"{row.minutes:.1f}", *dice))
    for variant, summaries in report.cross_validation.items():
        lines += [
            "",
            f"Cross-validation, {variant}: each study found by the run that did not learn from it.",
            "",
        ]
        lines += _head(("", *summaries))
        for key, name in _FIGURES.items():
            lines.append(
                _row(
                    name,
                    *(_spread(found.figures[key], _digits(key)) for found in summaries.values()),
                )
            )
        agreements = (_agreement(found.agreement) for found in summaries.values())
        lines.append(_row("volume: R2; bias (limits of agreement), mL", *agreements))
    return "\n".join(lines) + "\n"


# -- model card -----------------------------------------------------------------------------------


def put_into_card(table: str, card: Path) -> None:
    """Replace what stands between the two markers of a model card.

    Raises
    ------
    TrainingError
        `training-no-markers`, when it does not have both, once each; `training-disk`.
    """
    try:
        text = card.read_text("utf-8")
    except OSError as error:
        raise TrainingError(
            f"{card}: {error.strerror}; write a model card with the two lines {BEGIN} and {END}.",
            code="training-no-markers",
        ) from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise TrainingError(
            f"{card}: put the two lines {BEGIN} and {END} where the table belongs.",
            code="training-no-markers",
        )
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    write_whole(card, f"{before}{BEGIN}\n{table.strip()}\n{END}{after}".encode())


# -- cells ----------------------------------------------------------------------------------------


def _head(headings: Sequence[str]) -> list[str]:
    return [_row(*headings), "|" + "---|" * len(headings)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _digits(figure: str) -> int:
    """Decimals: shares near 1 differ in the fourth, millimetres do not."""
    return 2 if figure.endswith("_mm") else 4


def _spread(spread: Spread, digits: int = 4) -> str:
    if not math.isfinite(spread.mean):
        return _NONE
    mean, sd, worst = (_number(value, digits) for value in (spread.mean, spread.sd, spread.worst))
    return f"{mean} ({sd}; {worst})"


def _agreement(agreement: Mapping[str, float]) -> str:
    bias, lower, upper = (_number(agreement[key], 1) for key in ("bias_ml", "lower_ml", "upper_ml"))
    return f"{_number(agreement['r2'], 4)}; {bias} ({lower} to {upper})"


def _counts(summary: Summary) -> str:
    without = summary.absent + summary.invented
    return f"{summary.present} ({summary.missed}); {without} ({summary.invented})"


def _number(value: float | None, digits: int = 4) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
