"""What training and evaluation of a pipeline are asked and what they answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from json import dumps
from pathlib import Path
from typing import Any

from pipelines.training.checkpoint import write_whole
from pipelines.training.delong import Area, Difference
from pipelines.training.figures import Record, Spread, Summary
from pipelines.training.recipe import Widths

REPORT_NAME = "report.json"
WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a pipeline is trained; None: as its recipe says."""

    out: Path  #: folder of checkpoint, weights and report; a checkpoint there is resumed
    data: Path | None = None  #: folder of own labelled studies; None: phantoms
    phantoms: int | None = None  #: phantoms rendered in all
    atlas: Path | None = None  #: folder of label maps; None: procedural bodies
    cache: Path | None = (
        None  #: folder of crops drawn before learning begins; None: drawn meanwhile
    )
    epochs: tuple[int, ...] = ()  #: how often each phantom or crop is seen; several: a sweep
    steps: int | None = None  #: instead of epochs
    minutes: float | None = None  #: instead of epochs
    widths: tuple[Widths, ...] = ()  #: channels of the levels; several: a sweep
    repeats: int = 1  #: runs of each kind with other seeds
    folds: int | None = None  #: cross-validation
    fold: int | None = None  #: this one alone; None with `folds`: all
    test_share: float | None = None  #: of own cases, kept out of training
    studies: int = 4  #: phantom studies each run of a sweep is evaluated on
    skip_unknown: bool = False  #: leave out own labels that the manifest does not know
    init: Path | None = None  #: weights to start from
    batch_size: int | None = None
    learning_rate: float | None = None
    average: float = 0.999  #: decay of the moving average of the weights; 0: none
    workers: int = 1
    device: str = "cpu"
    fast: bool = False  #: compile the network; half precision also on a CPU that has it
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run of those that were asked for."""

    name: str  #: folder below `out`; empty: `out` itself
    widths: Widths
    epochs: int
    fold: int | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What one training run did."""

    run: Run
    steps: int
    resumed_from: int  #: step of the checkpoint that was resumed, or 0
    first_loss: float  #: mean over the first tenth of this run's steps; NaN if there were none
    last_loss: float  #: mean over the last tenth
    validation_loss: float | None  #: of the weights that were kept
    best_step: int  #: the step that they are of
    seconds: float
    parameters: int  #: weights of the network
    weights: Path  #: safetensors
    sha256: str  #: of the weights, for the manifest
    records: tuple[Record, ...] = ()  #: figures on studies that were not trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """Runs that differ in their seed or fold alone; a spread is over runs, its worst the worst run's."""

    widths: Widths
    epochs: int
    runs: int
    parameters: int  #: weights of the network
    validation_loss: Spread
    dice: Mapping[str, Spread]  #: by variant, of each run's mean over structures and studies
    minutes: float  #: of training, on average


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What `train` did."""

    pipeline: str
    data: str  #: what was given, held out studies too, in words; begins with "phantom data" or "own data"
    runs: tuple[RunReport, ...]
    sweep: tuple[SweepRow, ...] = ()  #: where there are several runs
    #: variant -> structure -> figures over the studies of all folds, each found by the run that did not learn from it
    cross_validation: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """How a pipeline is evaluated."""

    out: Path  #: folder of the report
    weights: Path
    data: Path | None = None  #: folder of own labelled studies; None: phantoms
    phantoms: int = 12  #: phantom studies, none of which was in training
    atlas: Path | None = None  #: folder of label maps; None: procedural bodies
    run: Path | None = (
        None  #: folder of the training run whose held-out cases of `data` are meant; None: all
    )
    skip_unknown: bool = False  #: leave out own labels that the manifest does not know
    references: bool = False  #: also the recipe's methods without a network
    device: str = "cpu"
    seed: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstStudy:
    """The study whose mean Dice over structures is lowest."""

    case: str
    variant: str
    dice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """Figures on studies that were not in training."""

    pipeline: str
    data: str  #: which studies, in words; begins with "phantom data" or "own data"
    studies: int
    weights_sha256: str
    summaries: Mapping[str, Mapping[str, Summary]]  #: variant -> structure
    groups: Mapping[str, Mapping[str, Mapping[str, Summary]]]  #: variant -> group -> structure
    refused: Mapping[
        str, int
    ]  #: studies that the pipeline declined, by variant; no figure has them
    seconds_per_study: Mapping[str, float]  #: by variant
    seconds_per_slice: Mapping[str, float]
    peak_memory_mb: float  #: resident memory of the whole process, data included
    peak_gpu_memory_mb: float | None
    device: str
    worst: WorstStudy | None
    records: tuple[Record, ...]
    areas: Mapping[str, Area] = field(
        default_factory=dict
    )  #: under the ROC curve of lesions, by variant
    area_differences: tuple[Difference, ...] = ()  #: between variants


def write_report(report: Any, folder: Path) -> Path:
    """Write a report as JSON (no number: null) and return its path."""
    path = folder / REPORT_NAME
    write_whole(path, (dumps(plain(report), indent=2, allow_nan=False) + "\n").encode())
    return path


def plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case str() | int() | bool() | None:
            return value
        case _:
            return str(value)
