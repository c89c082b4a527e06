"""An endless stream of training slices, rendered from phantoms while training runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipelines.training.phantoms.tissues import Phantom

#: Image and truth, float32, shape (1, rows, columns); with a leading batch axis once batched.
Sample = tuple[torch.Tensor, torch.Tensor]
#: Draws one phantom of one slice.
Render = Callable[[np.random.Generator], Phantom]
#: From a phantom to a sample: truth chosen, preprocessed, augmented.
Prepare = Callable[[Phantom, np.random.Generator], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How phantoms become batches."""

    batch_size: int = 8
    workers: int = 1  #: processes that render; 0 renders in the training process
    pool: int = 48  #: phantoms kept by a worker and served in random order
    reuse: int = 3  #: how often a phantom is served on average, each time augmented anew
    seed: int = 0


class PhantomStream(IterableDataset[Sample]):
    """Samples of phantoms, for ever.

    Parameters
    ----------
    render, prepare
        What makes a phantom, and what makes a sample of it.
    options
        Same options, same functions: same stream.
    """

    def __init__(self, render: Render, prepare: Prepare, options: StreamOptions) -> None:
        super().__init__()
        self._render = render
        self._prepare = prepare
        self._options = options

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples; the pool is filled to half before the first one leaves."""
        worker = get_worker_info()
        rng = np.random.default_rng([self._options.seed, worker.id if worker else 0])
        pool: list[Phantom] = []
        while True:
            phantom = self._render(rng)
            if len(pool) < self._options.pool:
                pool.append(phantom)
            else:
                pool[rng.integers(len(pool))] = phantom
            if len(pool) >= self._options.pool // 2:
                for _ in range(self._options.reuse):
                    yield self._prepare(pool[rng.integers(len(pool))], rng)


def batches(render: Render, prepare: Prepare, options: StreamOptions) -> DataLoader[Sample]:
    """Return the stream in batches, rendered by worker processes."""
    return DataLoader(
        PhantomStream(render, prepare, options),
        batch_size=options.batch_size,
        num_workers=options.workers,
        # Workers share the atlas with the training process instead of copying it.
        multiprocessing_context="fork" if options.workers else None,
        prefetch_factor=4 if options.workers else None,
    )


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
