"""What training and evaluation of a pipeline are asked and what they answer.

Every pipeline that can be trained has a module `pipelines.<name>.training` of two functions:

    train(options: TrainOptions) -> TrainReport
    evaluate(options: EvaluateOptions) -> EvaluateReport

`osteonode pipelines train NAME` and `evaluate NAME` call them. Both write their report as JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

REPORT_NAME = "report.json"
WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a pipeline is trained."""

    phantoms: int  #: phantoms rendered in all; the number of steps follows
    out: Path  #: folder of checkpoint, weights and report; a checkpoint there is resumed
    atlas: Path | None = None  #: folder of label maps; None: procedural bodies
    batch_size: int = 8
    learning_rate: float = 3e-3
    workers: int = 1
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a training run did."""

    pipeline: str
    steps: int
    resumed_from: int  #: step of the checkpoint that was resumed, or 0
    first_loss: float  #: mean over the first tenth of this run's steps; NaN if there were none
    last_loss: float  #: mean over the last tenth
    seconds: float
    weights: Path  #: safetensors, beside the report
    sha256: str  #: of the weights, for the manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """How a pipeline is evaluated."""

    phantoms: int  #: phantom studies, none of which was in training
    out: Path  #: folder of the report
    weights: Path
    atlas: Path | None = None  #: folder of label maps; None: procedural bodies
    device: str = "cpu"
    seed: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over all studies."""

    mean: float
    sd: float
    worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """Figures on phantoms that were not in training."""

    pipeline: str
    data: str  #: which phantoms, in words
    studies: int
    figures: Mapping[str, Mapping[str, Spread]]  #: variant -> figure -> spread
    agreement: Mapping[str, Mapping[str, float]]  #: variant -> r2, bias_ml, lower_ml, upper_ml
    seconds_per_study: float
    seconds_per_slice: float
    peak_memory_mb: float


def write_report(report: TrainReport | EvaluateReport, folder: Path) -> Path:
    """Write a report as JSON and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REPORT_NAME
    path.write_text(dumps(asdict(report), indent=2, default=str) + "\n", encoding="utf-8")
    return path
