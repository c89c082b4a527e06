"""How much faster a training step is when the network is compiled: `python benchmarks/training_step.py`.

Both ways in turn on the same random batch; the fastest of some steps counts. On a CPU with AVX-512 BF16 the compiled
one computes in half precision too, as `osteonode pipelines train --fast` does.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from itertools import pairwise, repeat
from pathlib import Path

import torch

from pipelines.training.loop import LoopOptions, Parts, Progress, run_loop
from pipelines.training.recipe import Recipe

#: Pipeline -> shape of a training batch.
_BATCHES = {"ct_skeleton": (8, 1, 256, 256), "qct_femur": (4, 1, 64, 64, 64)}


def main() -> None:
    """Print seconds a step and their ratio for each pipeline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, shape in _BATCHES.items():
        recipe: Recipe = importlib.import_module(f"pipelines.{name}.training").RECIPE
        plain, fast = (
            _fastest_step(recipe, shape, options.steps, fast=one) for one in (False, True)
        )
        print(f"{name}: {plain:.3f} s a step, --fast {fast:.3f} s: {fast / plain:.2f} of the time")


def _fastest_step(recipe: Recipe, shape: tuple[int, ...], steps: int, *, fast: bool) -> float:
    torch.manual_seed(0)
    sample = torch.randn(shape), (torch.rand(shape) > 0.9).float()
    ends: list[float] = []

    def watch(progress: Progress) -> None:
        del progress
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(
            network=recipe.make_network(None),
            loss=recipe.make_loss(),
            batches=lambda first: repeat(sample),
            watch=watch,
        )
        run_loop(parts, LoopOptions(steps=steps + 2, fast=fast, folder=Path(folder)))
    # The first step compiles and saves a checkpoint.
    return min(after - before for before, after in pairwise(ends[1:]))


if __name__ == "__main__":
    main()
