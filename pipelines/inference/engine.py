"""A network ready to run: on a GPU with mixed precision, on the CPU by OpenVINO where that is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog
import torch
from torch import nn

from pipelines.errors import PipelineError
from pipelines.inference import openvino

_log = structlog.get_logger(__name__)


class Backend(StrEnum):
    """What computes."""

    TORCH = "torch"
    OPENVINO = "openvino"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A network on its device; call it with float32 (batch, channel, ...), get float32 logits.

    Attributes
    ----------
    infer
        What computes; input and output lie on `device`.
    device
        Where the network is.
    backend
        What computes, for logs and reports.
    """

    infer: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    backend: Backend

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 (batch, class, ...), of an image, float32 (batch, channel, ...).

        Raises
        ------
        PipelineError
            `network-not-finite`: what is no number would pass for "nothing found".
        """
        logits = self.infer(image)
        # One value that is not finite makes the sum so; this reads the logits once and writes nothing.
        if not logits.sum().isfinite():
            raise PipelineError(
                f"The network's answer on {self.device} ({self.backend}) is not finite: its weights are damaged, or "
                "half precision does not hold its values there. Install other weights, or compute on the CPU "
                '([compute] devices = ["cpu"]).',
                code="network-not-finite",
            )
        return logits


#: What `segment_slices` and `segment_patches` take: a compiled network, or a module as it is.
Network = Engine | nn.Module


def compile_network(network: nn.Module, device: str, probes: Sequence[Sequence[int]]) -> Engine:
    """Put a network on its device and prepare the fastest way to run it; once, when a pipeline loads.

    Parameters
    ----------
    network
        Takes one float32 tensor (batch, channel, ...) and returns one tensor of logits
        (batch, class, ...).
    device
        torch device, e.g. `cpu` or `cuda:0`.
    probes
        Shapes of small inputs on which torch and OpenVINO must agree before OpenVINO is trusted. Give two of
        different size where the size varies: a traced network may have kept the first one's.

    Returns
    -------
    Engine
        By OpenVINO on a CPU where it is installed and agrees, else by torch; a log line says why not.
    """
    network = network.to(device).eval()
    if torch.device(device).type != "cpu" or not openvino.is_installed():
        return engine_of(network)
    try:
        infer = openvino.compile_module(network, probes)
    except openvino.NotUsable as error:
        _log.warning("openvino_not_used", network=type(network).__name__, reason=str(error))
        return engine_of(network)
    return Engine(infer=infer, device=torch.device(device), backend=Backend.OPENVINO)


def engine_of(network: Network) -> Engine:
    """Return a network as an engine: itself, or a module in eval mode by torch on the device it is on."""
    if isinstance(network, Engine):
        return network
    device = next(network.parameters()).device
    precision = _precision(device)

    def infer(image: torch.Tensor) -> torch.Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, precision, enabled=precision != torch.float32),
        ):
            logits: torch.Tensor = network(image)
        return logits.float()

    return Engine(infer=infer, device=device, backend=Backend.TORCH)


def _precision(device: torch.device) -> torch.dtype:
    """Half precision where the device has it in hardware; CPUs without AMX are slower with it."""
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16
