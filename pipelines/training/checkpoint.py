"""What a training run leaves while it goes: a checkpoint to resume from, always a whole one."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import TrainingError

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(state: dict[str, Any], folder: Path) -> None:
    """Replace the checkpoint of a folder.

    Parameters
    ----------
    state
        Tensors, numbers, strings, and dictionaries of them.
    folder
        Made when it is not there.

    Raises
    ------
    TrainingError
        `training-disk`, when it cannot be written; the last whole checkpoint stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(folder / CHECKPOINT, buffer.getbuffer())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a kill or a full disk leaves the old one, or none.

    Raises
    ------
    TrainingError
        `training-disk`, naming the folder and what to do.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> TrainingError:
    """Say what to do when something cannot be written."""
    return TrainingError(
        f"{path} cannot be written ({error.strerror}): make room in {path.parent}, or let it be written, then give the "
        "same command again; training goes on from the last checkpoint.",
        code="training-disk",
    )


def load_checkpoint(folder: Path, device: str) -> dict[str, Any] | None:
    """Return the checkpoint of a folder, or None.

    Raises
    ------
    TrainingError
        `training-checkpoint`, when the file is no checkpoint.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        _ = (state["step"], state["network"])
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is no checkpoint of a training run; choose another --out, or remove the file to begin again.",
            code="training-checkpoint",
        ) from error
    return state
