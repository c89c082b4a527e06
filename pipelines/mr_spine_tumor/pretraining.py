"""Pre-training: the network learns where vertebrae are before it learns what in and beside them is a tumour.

    python -m pipelines.mr_spine_tumor.pretraining --atlas DIR --out DIR --minutes 30
    osteonode pipelines train mr_spine_tumor --atlas DIR --out DIR2 --init DIR/weights.safetensors

The publication pre-trains, its abstract does not say on what; this is ours.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from pipelines.mr_spine_tumor.training import RECIPE
from pipelines.training.options import TrainOptions
from pipelines.training.recipe import Loss
from pipelines.training.train import train


def make_loss() -> Loss:
    """Return the loss of pre-training."""
    return spine_or_not


def spine_or_not(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of spine (vertebra or tumour, whichever) against background.

    Parameters
    ----------
    logits
        float32, shape (batch, 3, rows, columns): background, vertebrae, tumours.
    truth
        float32, shape (batch, 1, rows, columns): the number of the class.
    """
    spine = torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]
    return functional.binary_cross_entropy_with_logits(spine, (truth[:, 0] > 0).to(spine.dtype))


#: As `RECIPE`, but for what is minimised.
PRETRAINING = replace(RECIPE, make_loss=make_loss)


def main() -> None:
    """Pre-train, from the command line."""
    parser = argparse.ArgumentParser(description="Pre-train mr_spine_tumor on vertebrae.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--atlas", type=Path, help="folder of label maps; else procedural bodies")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw phantoms")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cuda:0")
    given = parser.parse_args()
    options = TrainOptions(
        out=given.out,
        atlas=given.atlas,
        minutes=given.minutes,
        workers=given.workers,
        device=given.device,
    )
    train(PRETRAINING, options)


if __name__ == "__main__":
    main()
