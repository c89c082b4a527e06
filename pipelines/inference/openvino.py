"""Networks on the CPU by OpenVINO, an optional extra: `pip install 'osteonode[cpu]'`.

Converted once per process, at load, from the torch module; used only if it says what torch says.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

#: Difference of logits, relative to the largest, up to which both say the same: float32 sums in another order.
TOLERANCE = 1e-3
_TELEMETRY = "openvino_telemetry"


class NotUsable(Exception):
    """OpenVINO cannot run this network, or disagrees with torch; the message says which."""


def is_installed() -> bool:
    """Whether the extra is there; imports nothing."""
    try:
        return find_spec("openvino") is not None
    except ValueError:  # None in `sys.modules`: kept out on purpose
        return False


def compile_module(
    network: nn.Module, probes: Sequence[Sequence[int]]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Convert a module, compile it for the CPU, and compare it with torch.

    Parameters
    ----------
    network
        On the CPU, in eval mode; one float32 tensor in, one out.
    probes
        Shapes of the inputs on which both must agree; the first is traced.

    Returns
    -------
    callable
        float32 (batch, channel, ...) -> float32 (batch, class, ...), with as many threads as torch has now.

    Raises
    ------
    NotUsable
        When it cannot be imported, converted or compiled, or differs by more than `TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(tuple(shape), generator=generator) * 2 - 1 for shape in probes]
    try:
        infer = _compile(network, images[0])
        answers = [infer(image) for image in images]
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # OpenVINO's have no base class of their own, and torch can do without it
        first_line = str(error).strip().partition("\n")[0]
        raise NotUsable(f"{type(error).__name__}: {first_line}") from error
    for image, answer in zip(images, answers, strict=True):
        with torch.inference_mode():
            expected = network(image)
        if answer.shape != expected.shape:
            raise NotUsable(f"shape {tuple(answer.shape)} instead of {tuple(expected.shape)}")
        difference = float((answer - expected).abs().max() / (1 + expected.abs().max()))
        if not difference <= TOLERANCE:
            raise NotUsable(
                f"logits differ by {difference:.2g} of the largest on {tuple(image.shape)}"
            )
    return infer


def _compile(network: nn.Module, example: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    openvino = _import()
    with warnings.catch_warnings():
        # The tracer's, of Python values in shapes: the probes show whether they matter.
        warnings.simplefilter("ignore")
        # Traced once: the probes compare what becomes of it with the network.
        traced = torch.jit.trace(network, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=example)
    # Batch and size vary, channels do not.
    shape = [-1, example.shape[1], *[-1] * (example.dim() - 2)]
    model.reshape(shape)
    compiled = _core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Not what the processor would like best: the figures in the model card are those of float32.
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )

    def infer(image: torch.Tensor) -> torch.Tensor:
        # One at a time: the layers of one image stay in the cache, those of a batch do not.
        answers = [compiled(image[number : number + 1].numpy())[0] for number in range(len(image))]
        return torch.from_numpy(np.concatenate(answers))

    return infer


@cache
def _core() -> Any:
    """The only one of the process, which is never freed.

    On Linux its plugin gives the thread that loads it another stack for signals, and when the plugin goes it takes that
    memory away, whoever uses it (2026.4): the next signal with a handler ends the process without a word.
    """
    return _import().Core()


def _import() -> Any:
    """Import OpenVINO without its telemetry, which would tell its maker of every start over the network.

    It does without where the package is missing; None in `sys.modules` is how Python says missing.
    """
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if before is None:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = before
