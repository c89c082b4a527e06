"""An endless stream of training samples, drawn and prepared while training runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipelines.training.case import Case
from pipelines.training.phantoms.tissues import Phantom
from pipelines.training.recipe import Draw, Sample

#: Draws one phantom of one slice.
Render = Callable[[np.random.Generator], Phantom]

#: From a crop to a sample: preprocessed, augmented.
Prepare = Callable[[Case, np.random.Generator], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How crops become batches."""

    batch_size: int = 8
    workers: int = 1  #: processes that draw; 0 draws in the training process
    pool: int = 48  #: crops kept by a worker and served in random order
    reuse: int = 3  #: how often a crop is served on average, each time augmented anew
    seed: int | Sequence[int] = 0


class CropStream(IterableDataset[Sample]):
    """Samples of crops, for ever.

    Parameters
    ----------
    draw, prepare
        What makes a crop, and what makes a sample of it.
    options
        Same options, same functions: same stream.
    """

    def __init__(self, draw: Draw, prepare: Prepare, options: StreamOptions) -> None:
        super().__init__()
        self._draw = draw
        self._prepare = prepare
        self._options = options

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples; the pool is filled to half before the first one leaves."""
        worker = get_worker_info()
        rng = np.random.default_rng([*_seeds(self._options.seed), worker.id if worker else 0])
        pool: list[Case] = []
        while True:
            crop = self._draw(rng)
            if len(pool) < self._options.pool:
                pool.append(crop)
            else:
                pool[rng.integers(len(pool))] = crop
            if len(pool) >= self._options.pool // 2:
                for _ in range(self._options.reuse):
                    yield self._prepare(pool[rng.integers(len(pool))], rng)


def batches(draw: Draw, prepare: Prepare, options: StreamOptions) -> DataLoader[Sample]:
    """Return the stream in batches, drawn by worker processes."""
    return DataLoader(
        CropStream(draw, prepare, options),
        batch_size=options.batch_size,
        num_workers=options.workers,
        # Workers share label maps with the training process instead of copying them.
        multiprocessing_context="fork" if options.workers else None,
        worker_init_fn=_use_one_thread if options.workers else None,
        prefetch_factor=4 if options.workers else None,
    )


def _use_one_thread(_worker: int) -> None:
    """Small matrices on every core at once make each other wait: a crop took five times as long."""
    threadpool_limits(1)


def to_sample(image: NDArray[np.float32], truth: NDArray[Any], rng: np.random.Generator) -> Sample:
    """Return tensors, mirrored at random: often left and right, seldom front and back.

    Parameters
    ----------
    image
        Ready for the network, shape (rows, columns).
    truth
        1 in the structure, same shape.
    rng
        Source of chance.
    """
    if rng.random() < 0.5:
        image, truth = np.flip(image, 1), np.flip(truth, 1)
    if rng.random() < 0.15:  # prone
        image, truth = np.flip(image, 0), np.flip(truth, 0)
    return (
        torch.from_numpy(np.ascontiguousarray(image, np.float32)[None]),
        torch.from_numpy(np.ascontiguousarray(truth, np.float32)[None]),
    )


def _seeds(seed: int | Sequence[int]) -> Sequence[int]:
    return [seed] if isinstance(seed, int) else seed
