"""Weights as they ship: safetensors in half precision, and their checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from pipelines.errors import WeightsError
from pipelines.training.checkpoint import write_whole
from pipelines.training.recipe import Recipe, Widths

#: Key of our entry among the file's metadata: one, for their order in the file is not determined.
_METADATA = "osteonode"


def export_weights(
    network: nn.Module, path: Path, *, pipeline: str = "", widths: Widths = None
) -> str:
    """Write a network's weights and return the file's SHA-256.

    Half precision halves the file; it is far finer than what training determines. What it cannot hold, as the variances
    of batch norm where activations are large, stays as it is.

    Parameters
    ----------
    network
        Its state is written.
    path
        safetensors.
    pipeline, widths
        Written beside the weights, so that `load_weights` knows which network they are of.

    Raises
    ------
    TrainingError
        `training-disk`.
    """
    state = {
        name: _halved(value.detach().cpu()).contiguous()
        for name, value in network.state_dict().items()
    }
    about = json.dumps({"pipeline": pipeline, "widths": widths}, sort_keys=True)
    content = safetensors.torch.save(state, metadata={_METADATA: about})
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def _halved(value: torch.Tensor) -> torch.Tensor:
    half = value.to(torch.float16)
    return half if half.isfinite().all() else value.float()


def load_weights(recipe: Recipe, path: Path, device: str) -> nn.Module:
    """Build the network that weights are of; float32, in eval mode, on the device.

    Raises
    ------
    WeightsError
        When the file cannot be read, or is of another network.
    """
    network = recipe.make_network(read_widths(path))
    put_weights(network, path)
    return network.to(device).eval()


def put_weights(network: nn.Module, path: Path) -> None:
    """Read weights (any float type) into a network.

    Raises
    ------
    WeightsError
        When the file cannot be read, is of another network, or holds what is no finite number.
    """
    try:
        state = safetensors.torch.load_file(path)
        infinite = [name for name, value in state.items() if not value.float().isfinite().all()]
        if infinite:
            raise WeightsError(
                f"{path} is damaged: {', '.join(infinite)} is not finite, and would silence a layer; train again."
            )
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors; give a file that `train` wrote."
        ) from error
    except RuntimeError as error:
        raise WeightsError(
            f"{path} holds the weights of another network; give those of this pipeline and these --widths."
        ) from error


def read_widths(path: Path) -> Widths:
    """Return the channel widths that weights say they are of; None: those that ship."""
    widths = read_about(path).get("widths")
    return tuple(widths) if widths else None


def read_about(path: Path) -> dict[str, Any]:
    """Return what `export_weights` wrote beside the weights: `pipeline` and `widths`; nothing of others' files.

    Raises
    ------
    WeightsError
        When the file cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors; give a file that `train` wrote."
        ) from error
    return about
