"""Training and evaluation of the skeleton pipeline on phantoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipelines.ct_skeleton.evaluation import evaluate
from pipelines.ct_skeleton.phantoms import training_slices
from pipelines.ct_skeleton.preprocessing import (
    Normalisation,
    apply_threshold,
    clip,
    normalise,
    upper_bound,
)
from pipelines.networks.unet2d import UNet2d
from pipelines.training.export import export_weights
from pipelines.training.loop import LoopOptions, run_loop
from pipelines.training.options import (
    WEIGHTS_NAME,
    TrainOptions,
    TrainReport,
    write_report,
)
from pipelines.training.phantoms.tissues import Phantom, skeleton_of
from pipelines.training.stream import Sample, StreamOptions, batches, to_sample

__all__ = ["evaluate", "train"]

NAME = "ct_skeleton"


def train(options: TrainOptions) -> TrainReport:
    """Train the network, export its weights, write the report; resume where a run stopped.

    Parameters
    ----------
    options
        `phantoms` are slices of random patients, each seen three times on average.
    """
    torch.manual_seed(options.seed)
    network = UNet2d()
    stream = StreamOptions(batch_size=options.batch_size, workers=options.workers)
    steps = max(1, options.phantoms * stream.reuse // options.batch_size)
    render = training_slices(options.atlas)

    def from_step(first: int) -> torch.utils.data.DataLoader[Sample]:
        # A resumed run goes on with other phantoms, not with the first ones again.
        return batches(
            render,
            prepare,
            StreamOptions(
                batch_size=options.batch_size,
                workers=options.workers,
                seed=options.seed + first,
            ),
        )

    loop = LoopOptions(
        steps=steps,
        learning_rate=options.learning_rate,
        device=options.device,
        folder=options.out,
    )
    result = run_loop(network, from_step, loop)
    weights = options.out / WEIGHTS_NAME
    tenth = max(1, len(result.losses) // 10)
    report = TrainReport(
        pipeline=NAME,
        steps=steps,
        resumed_from=result.first_step,
        first_loss=_mean(result.losses[:tenth]),
        last_loss=_mean(result.losses[-tenth:]),
        seconds=result.seconds,
        weights=weights,
        sha256=export_weights(network, weights),
    )
    write_report(report, options.out)
    return report


def prepare(phantom: Phantom, rng: np.random.Generator) -> Sample:
    """Return a one-slice phantom as the network will see patients: either normalisation."""
    image = clip(apply_threshold(phantom.image.array[0].astype(np.float32)))
    variant = Normalisation(rng.choice(list(Normalisation)))
    upper = upper_bound(image, variant)
    if variant is Normalisation.INTRAPATIENT:
        # One slice stands for a patient whose range it does not tell exactly.
        upper *= float(rng.uniform(0.8, 1.25))
    image = normalise(image, upper * float(rng.uniform(0.95, 1.05)))
    return to_sample(image, skeleton_of(phantom.tissues).array[0], rng)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
