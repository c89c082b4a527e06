"""Pictures of an evaluation: agreement of volumes, Dice, and the worst study overlaid on its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydicom import Dataset

from pipelines.evidence.overlay import overlay_picture
from pipelines.manifest import Manifest, SegmentSpec, read_manifest
from pipelines.result import AnalysisResult, Segment, SourceSeries
from pipelines.training.assess import Worst
from pipelines.training.case import UNKNOWN
from pipelines.training.checkpoint import disk_error
from pipelines.training.figures import Figures, Record
from pipelines.training.metrics import volume_agreement
from pipelines.training.options import EvaluateReport
from pipelines.training.recipe import Recipe

BLAND_ALTMAN, DICE, WORST = "bland-altman.png", "dice.png", "worst.png"

_PANEL = 4.2  # inches
#: What each voxel of the worst study's picture is, with its colour.
_AGREEMENT = (
    ("found and true", (90, 200, 120)),
    ("missed, or another structure", (255, 80, 80)),
    ("found, not true", (255, 190, 60)),
)


def draw_plots(
    recipe: Recipe, report: EvaluateReport, worst: Worst | None, folder: Path
) -> tuple[Path, ...]:
    """Draw the pictures of a report and return their paths.

    Raises
    ------
    TrainingError
        `training-disk`.
    """
    paths = [folder / BLAND_ALTMAN, folder / DICE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw_bland_altman(report, paths[0])
        _draw_dice(report, paths[1])
        if worst is not None:
            paths.append(folder / WORST)
            _draw_worst(worst, read_manifest(recipe.folder), paths[-1])
    except OSError as error:
        raise disk_error(paths[-1], error) from error
    return tuple(paths)


def _draw_bland_altman(report: EvaluateReport, path: Path) -> None:
    """Difference of volumes over their mean: a panel for each variant and structure."""
    panels = _panels(report.records)
    columns = len(report.summaries)
    figure, grid = _figure(-(-len(panels) // columns), columns)
    for axes, ((variant, structure), figures) in zip(grid, panels.items(), strict=True):
        ours = np.asarray([one.volume_ml for one in figures])
        real = np.asarray([one.true_volume_ml for one in figures])
        axes.scatter((ours + real) / 2, ours - real, s=14)
        agreement = volume_agreement(figures)
        for key, style in (("bias_ml", "-"), ("lower_ml", "--"), ("upper_ml", "--")):
            if np.isfinite(agreement[key]):
                axes.axhline(agreement[key], linestyle=style, color="#444444", linewidth=1)
        axes.set_title(f"{structure}, {variant}", fontsize=9)
        axes.set_xlabel("mean of found and true volume, mL", fontsize=8)
        axes.set_ylabel("found - true, mL", fontsize=8)
    _save(figure, report, path)


def _draw_dice(report: EvaluateReport, path: Path) -> None:
    """Every study's Dice, and its quartiles: a panel for each variant."""
    variants = list(report.summaries)
    figure, grid = _figure(1, len(variants))
    panels = _panels(report.records)
    rng = np.random.default_rng(0)
    for axes, variant in zip(grid, variants, strict=True):
        dice = {
            structure: [one.dice for one in figures if one.true_volume_ml > 0]
            for (other, structure), figures in panels.items()
            if other == variant
        }
        shown = {structure: values for structure, values in dice.items() if values}
        if shown:
            axes.boxplot(list(shown.values()), tick_labels=list(shown), showfliers=False)
        for place, values in enumerate(shown.values(), start=1):
            axes.scatter(place + rng.uniform(-0.12, 0.12, len(values)), values, s=12, alpha=0.6)
        axes.tick_params(axis="x", labelrotation=20, labelsize=8)
        axes.set_title(variant, fontsize=9)
        axes.set_ylabel("Dice", fontsize=8)
    _save(figure, report, path)


def _panels(records: Sequence[Record]) -> dict[tuple[str, str], list[Figures]]:
    panels: dict[tuple[str, str], list[Figures]] = {}
    for record in records:
        panels.setdefault((record.variant, record.structure), []).append(record.figures)
    # A row for each structure, a column for each variant.
    order = list(dict.fromkeys(structure for _, structure in panels))
    return dict(sorted(panels.items(), key=lambda panel: order.index(panel[0][1])))


def _figure(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_PANEL * max(1, columns), 0.85 * _PANEL * max(1, rows)))
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, rows), max(1, columns), squeeze=False)
    return figure, list(grid.ravel())


def _save(figure: Figure, report: EvaluateReport, path: Path) -> None:
    figure.suptitle(f"{report.pipeline}\n{report.data}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, format="png")


def _draw_worst(worst: Worst, manifest: Manifest, path: Path) -> None:
    """The study of the lowest Dice: what was found, missed and made up."""
    image = worst.case.image
    header = Dataset()
    header.Modality = next(iter(manifest.inputs.values())).modality[0]
    segments = tuple(
        Segment(number=number, spec=_spec(number, label, rgb, manifest), label=label)
        for number, (label, rgb) in enumerate(_AGREEMENT, start=1)
    )
    result = AnalysisResult(
        role=next(iter(manifest.inputs)),
        label_map=_agreement_of(worst.found, worst.case.labels),
        segments=segments,
    )
    source = SourceSeries(volume=image, datasets=(header,) * image.shape[0])
    overlay_picture(source, result, path)


def _agreement_of(found: hd.Volume, truth: hd.Volume) -> hd.Volume:
    """uint8: 1 found and true, 2 missed or another structure, 3 found and not true; nothing where nobody knows."""
    ours, real = found.array, truth.array
    agreement = np.zeros(ours.shape, np.uint8)
    agreement[(ours > 0) & (real == 0)] = 3
    agreement[(real > 0) & (ours != real)] = 2
    agreement[(real > 0) & (ours == real)] = 1
    agreement[real == UNKNOWN] = 0
    return found.with_array(agreement)


def _spec(number: int, label: str, rgb: tuple[int, int, int], manifest: Manifest) -> SegmentSpec:
    """A colour and a label for the legend; the codes are not shown."""
    first = manifest.segments[0]
    return SegmentSpec(
        number=number, label=label, category=first.category, type=first.type, rgb=rgb
    )
