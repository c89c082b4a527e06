"""Crops drawn once and kept in a folder: rendering a phantom, or reading a study, takes longer than learning from it.

Runs that differ in width, repeat, fold or learning rate read the same crops, and so does a run that goes on.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from pipelines.errors import TrainingError
from pipelines.training.case import Case
from pipelines.training.checkpoint import disk_error, write_whole
from pipelines.training.progress import counted
from pipelines.training.recipe import Draw

IDENTITY_NAME = "cache.json"
#: One of so many crops is kept for validation.
_VALIDATION_EVERY = 20
_FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CropCache:
    """A folder of crops, numbered from 0.

    Attributes
    ----------
    folder
        Where they lie, a file each.
    crops
        How many there shall be, at least two.
    seed
        Crop n is drawn with the seed (`seed`, n): the cache may grow later, in any order.
    """

    folder: Path
    crops: int
    seed: int = 0

    def fill(
        self, draw_of: Callable[[int], Draw], identity: Mapping[str, object], *, workers: int
    ) -> None:
        """Draw the crops that are not there yet, and show how many are done.

        Parameters
        ----------
        draw_of
            From a crop's number to what makes it.
        identity
            What must be the same for these crops to be these: pipeline, label maps or own studies.
        workers
            Processes that draw; 0 draws in this one.

        Raises
        ------
        TrainingError
            `training-cache`, when the folder holds crops of something else; `training-disk`.
        """
        if self.crops < _FEWEST:
            raise TrainingError(
                f"A cache of {self.crops} crops leaves none to learn from: ask for more.",
                code="training-cache",
            )
        self._demand_same({**identity, "seed": self.seed})
        missing = [number for number in range(self.crops) if not self._path(number).exists()]
        loader = DataLoader(
            _Drawing(self, draw_of, missing),
            batch_size=None,
            num_workers=workers,
            # Workers share label maps with this process instead of copying them.
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_use_one_thread if workers else None,
        )
        for _ in counted(loader, f"drawing crops into {self.folder.name}", len(missing)):
            pass

    def draw(self, rng: np.random.Generator) -> Case:
        """Return a random crop to learn from."""
        number = int(rng.integers(self.crops - _kept(self.crops)))
        return self._read(number + number // (_VALIDATION_EVERY - 1) + 1)

    def draw_validation(self, rng: np.random.Generator) -> Case:
        """Return a random crop of those that are never learned from."""
        return self._read(int(rng.integers(_kept(self.crops))) * _VALIDATION_EVERY)

    def draw_from(self, numbers: Sequence[int]) -> Draw:
        """Return what gives a random one of these crops."""
        return lambda rng: self._read(numbers[int(rng.integers(len(numbers)))])

    def write(self, number: int, case: Case) -> None:
        """Keep a crop."""
        path = self._path(number)
        partial = path.with_suffix(".partial")
        # Positional arrays are named by number: image, labels, affine, then partners and their affines.
        arrays = [case.image.array, case.labels.array, case.image.affine]
        for image in case.partners.values():
            arrays += [image.array, image.affine]
        named = np.array([case.group, *case.partners])
        try:
            with partial.open("wb") as file:
                np.savez(file, *arrays, named=named)
            # Not synced: a crop that a power cut took is drawn again, and waiting takes longer than drawing.
            partial.replace(path)
        except OSError as error:
            raise disk_error(path, error) from error

    def _read(self, number: int) -> Case:
        path = self._path(number)
        try:
            with np.load(path) as file:
                group, *roles = (str(name) for name in file["named"])
                arrays = [file[f"arr_{at}"] for at in range(3 + 2 * len(roles))]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise TrainingError(
                f"{path} is no crop of a cache: remove the file, and the same command draws it again.",
                code="training-cache",
            ) from error
        image = _volume(arrays[0], arrays[2])
        return Case(
            name=path.stem,
            image=image,
            labels=image.with_array(arrays[1]),
            group=group,
            partners={
                role: _volume(*arrays[3 + 2 * at : 5 + 2 * at]) for at, role in enumerate(roles)
            },
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"crop-{number:06d}.npz"

    def _demand_same(self, identity: Mapping[str, object]) -> None:
        path = self.folder / IDENTITY_NAME
        now = json.dumps(identity, indent=2, sort_keys=True)
        if not path.exists():
            write_whole(path, now.encode())
        elif path.read_text("utf-8") != now:
            raise TrainingError(
                f"{self.folder} holds crops of something else ({path.name} says of what): choose another --cache.",
                code="training-cache",
            )


class _Drawing(Dataset[int]):
    """Draws a crop when it is asked for one."""

    def __init__(
        self, cache: CropCache, draw_of: Callable[[int], Draw], missing: list[int]
    ) -> None:
        self._cache = cache
        self._draw_of = draw_of
        self._missing = missing

    def __len__(self) -> int:
        return len(self._missing)

    def __getitem__(self, index: int) -> int:
        number = self._missing[index]
        rng = np.random.default_rng([self._cache.seed, number])
        self._cache.write(number, self._draw_of(number)(rng))
        return number


def _volume(array: NDArray[Any], affine: NDArray[np.float64]) -> hd.Volume:
    return hd.Volume(array=array, affine=affine, coordinate_system="PATIENT")


def _kept(crops: int) -> int:
    """How many of the crops are for validation."""
    return (crops - 1) // _VALIDATION_EVERY + 1


def _use_one_thread(_worker: int) -> None:
    threadpool_limits(1)
