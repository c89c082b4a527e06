"""The whole configuration of a run, saved beside its weights; a run is resumed only as what it was."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.errors import TrainingError
from pipelines.training.checkpoint import write_whole
from pipelines.training.options import Run, TrainOptions, plain
from pipelines.training.recipe import Recipe
from pipelines.training.sources import Source

RECORD_NAME = "run.json"
_PACKAGES = ("osteonode", "torch", "monai", "numpy", "scipy", "SimpleITK", "highdicom")


def save_record(recipe: Recipe, source: Source, run: Run, options: TrainOptions) -> None:
    """Write `run.json` into the run's folder, or compare it with the one that is there.

    Raises
    ------
    TrainingError
        `training-other-run`, when the folder holds a run of something else; `training-disk`.
    """
    path = options.out / run.name / RECORD_NAME
    record = plain(
        {
            "identity": {
                "pipeline": recipe.pipeline,
                "stage": recipe.stage or None,
                "widths": run.widths,
                "fold": run.fold,
                "seed": run.seed,
                "batch_size": options.batch_size or recipe.batch_size,
                "init": _sha256(options.init),
                "data": source.identity,
            },
            "data": source.description,
            "run": asdict(run),
            "options": asdict(options),
            "recipe": {
                name: getattr(recipe, name)
                for name in ("crops_per_case", "learning_rate", "weight_decay", "pool")
            },
            "versions": {"python": platform.python_version(), **_versions()},
        }
    )
    if path.exists():
        _demand_same(read_record(path)["identity"], record["identity"], path)
    write_whole(path, (json.dumps(record, indent=2) + "\n").encode())


def read_record(path: Path) -> dict[str, Any]:
    """Return what `save_record` wrote.

    Raises
    ------
    TrainingError
        `training-other-run`, when the file is not that.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _ = record["identity"]["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is no record of a training run; give the folder that `train --out` was given.",
            code="training-other-run",
        ) from error
    return record


def held_out_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the test cases of the training run(s) in a folder.

    Raises
    ------
    TrainingError
        `training-other-run`, when it holds no run on own data with a test share.
    """
    records = sorted(
        path for path in (folder / RECORD_NAME, *folder.glob(f"*/{RECORD_NAME}")) if path.exists()
    )
    path = records[0] if records else folder / RECORD_NAME
    names = read_record(path)["identity"]["data"].get("test")
    if not names:
        raise TrainingError(
            f"{path}: nothing was held out of this run; it was trained on phantoms, on too few patients for "
            "its --test-share, or without one.",
            code="training-other-run",
        )
    return tuple(names)


def _demand_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        raise TrainingError(
            f"{path.parent} holds a run of other {', '.join(differing)}: choose another --out, or give the options "
            f"that {path.name} says to go on with it.",
            code="training-other-run",
        )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sha256(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
