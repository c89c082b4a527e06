"""The training loop: one network, one stream of samples, checkpoints to resume from."""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipelines.errors import TrainingError
from pipelines.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from pipelines.training.recipe import Loss, Sample

_log = structlog.get_logger(__name__)

_LARGEST_GRADIENT = 5.0
_LAST_RATE = 0.01
_STEPS_BETWEEN_LOOKS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How long and how fast to learn."""

    steps: int | None = None  #: None: as many as fit in `minutes`
    minutes: float | None = None  #: of training, those before an interruption included
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: int = 50  #: steps until the full learning rate
    save_seconds: float = 60.0  #: between two checkpoints
    looks: int = (
        20  #: at the validation samples, evenly over the run; none within 50 steps of another
    )
    average: float = 0.999  #: decay of the moving average of the weights; 0: none
    device: str = "cpu"
    fast: bool = False  #: compile the network; half precision also on a CPU that has it
    folder: Path  #: where the checkpoint lies; one that is there is resumed from


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the loop is, after a step."""

    step: int
    done: float  #: share of the run, 0 to 1
    loss: float
    learning_rate: float
    seconds: float  #: of training, those before an interruption included
    validation: float | None = (
        None  #: loss on the validation samples, where they were just looked at
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop puts together."""

    network: nn.Module  #: trained in place
    loss: Loss
    batches: Callable[[int], Iterable[Sample]]  #: from the first step; never ends
    validate: Callable[[nn.Module], float] | None = None  #: lower is better
    watch: Callable[[Progress], None] = lambda progress: None
    #: Before each step, of the network and of its average: (network, share of the run that is done).
    schedule: Callable[[nn.Module, float], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """What a run of the loop did."""

    first_step: int  #: above 0 when a checkpoint was resumed
    last_step: int
    losses: tuple[float, ...]  #: of the steps of this run
    validation: float | None  #: loss of the weights that were kept
    best_step: int  #: the step that the weights kept are of
    seconds: float  #: those before an interruption included


@dataclass(slots=True, kw_only=True)
class _State:
    """What changes from step to step, and what a checkpoint holds."""

    network: nn.Module
    forward: Callable[
        [torch.Tensor], torch.Tensor
    ]  #: the network, compiled where that was asked for
    precision: torch.dtype | None  #: of products; None: of the weights
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0
    looked_done: float = 0.0
    looked_step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)


def run_loop(parts: Parts, options: LoopOptions) -> LoopResult:
    """Train a network in place; it ends with the best weights where it is validated, else with the averaged ones.

    Parameters
    ----------
    parts
        The network takes float32 (batch, channel, ...) and returns logits that the loss takes.
    options
        Length, learning rate, device, checkpoint.

    Raises
    ------
    TrainingError
        When a checkpoint cannot be written (`training-disk`), or is of another network (`training-checkpoint`), or
        when the loss is no number any more (`training-diverged`).
    """
    device = torch.device(options.device)
    state = _begin(parts.network.to(device), device, options)
    _resume(state, options)
    first, losses = state.step, list[float]()
    before, started = state.seconds, time.monotonic()
    saved = started
    for image, truth in _stream(parts, state, options):
        rate = _set_rate(state, options)
        _schedule(state, parts, options)
        losses.append(_learn(state, parts.loss, image.to(device), truth.to(device)))
        state.seconds = before + time.monotonic() - started
        ended = _done(state, options) >= 1
        looked = _look(state, parts, options, ended=ended)
        # After the first step too: a folder that cannot be written is found before hours have passed.
        late = time.monotonic() - saved >= options.save_seconds
        if ended or late or state.step == 1:
            save_checkpoint(_snapshot(state), options.folder)
            saved = time.monotonic()
        parts.watch(
            Progress(
                step=state.step,
                done=min(1.0, _done(state, options)),
                loss=losses[-1],
                learning_rate=rate,
                seconds=state.seconds,
                validation=looked,
            )
        )
    _finish(state)
    return LoopResult(
        first_step=first,
        last_step=state.step,
        losses=tuple(losses),
        validation=state.best_loss if state.best_weights else None,
        best_step=state.best_step if state.best_weights else state.step,
        seconds=state.seconds,
    )


def _begin(network: nn.Module, device: torch.device, options: LoopOptions) -> _State:
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    precision = _precision(device, options)
    average = None
    if options.average:

        def toward(
            mean: torch.Tensor, now: torch.Tensor, count: torch.Tensor | int
        ) -> torch.Tensor:
            # A short run must not be an average with the random weights it began with.
            decay = min(options.average, (1 + int(count)) / (10 + int(count)))
            return torch.lerp(now, mean, decay)

        average = AveragedModel(network, avg_fn=toward)
    return _State(
        network=network,
        forward=_compiled(network, device) if options.fast else network,
        precision=precision,
        average=average,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=precision is torch.float16),
    )


def _compiled(network: nn.Module, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise TrainingError(
            "A network is compiled by a C++ compiler, and there is none: install g++, or leave out --fast.",
            code="training-no-compiler",
        )
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network)
    return compiled


def _precision(device: torch.device, options: LoopOptions) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    # Without the instructions, bfloat16 is emulated, and slower than single precision.
    has_instructions = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if options.fast and has_instructions else None


def _stream(parts: Parts, state: _State, options: LoopOptions) -> Iterator[Sample]:
    """Batches until the run is over."""
    if _done(state, options) >= 1:
        return
    for batch in parts.batches(state.step):
        yield batch
        if _done(state, options) >= 1:
            return
    raise TrainingError("The stream of training samples ended early.", code="training-data-ended")


def _done(state: _State, options: LoopOptions) -> float:
    """Share of the run that is done, by steps or by the clock."""
    if options.steps is not None:
        return state.step / max(1, options.steps)
    return state.seconds / (60 * (options.minutes or 1.0))


def _set_rate(state: _State, options: LoopOptions) -> float:
    """Set the learning rate: warm up, then a half cosine to 1 %, over steps or over the clock."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, _done(state, options))))
    warm = min(1.0, (state.step + 1) / max(1, options.warm_up))
    rate = options.learning_rate * warm * (_LAST_RATE + (1 - _LAST_RATE) * cosine)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _schedule(state: _State, parts: Parts, options: LoopOptions) -> None:
    if parts.schedule is not None:
        for network in (state.network, state.average.module if state.average else None):
            if network is not None:
                parts.schedule(network, _done(state, options))


def _learn(state: _State, loss_of: Loss, image: torch.Tensor, truth: torch.Tensor) -> float:
    """One step; returns the loss."""
    state.network.train()
    with torch.autocast(image.device.type, state.precision, enabled=state.precision is not None):
        logits = state.forward(image)
    loss = loss_of(logits.float(), truth)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"The loss is {value} at step {state.step + 1}: lower --learning-rate, and look for images whose values "
            "are not what the pipeline expects.",
            code="training-diverged",
        )
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    nn.utils.clip_grad_norm_(state.network.parameters(), _LARGEST_GRADIENT)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.network)
    state.step += 1
    return value


def _look(state: _State, parts: Parts, options: LoopOptions, *, ended: bool) -> float | None:
    """Loss on the validation samples when it is time; the best weights are kept."""
    due = _done(state, options) >= state.looked_done + 1 / options.looks
    due = due and state.step >= state.looked_step + _STEPS_BETWEEN_LOOKS
    if parts.validate is None or not (due or ended):
        return None
    state.looked_done, state.looked_step = _done(state, options), state.step
    network = _current(state)
    was, loss = network.training, parts.validate(network.eval())
    network.train(was)
    if loss < state.best_loss:
        state.best_loss, state.best_step = loss, state.step
        state.best_weights = copy.deepcopy(network.state_dict())
    return loss


def _current(state: _State) -> nn.Module:
    module: nn.Module = state.network if state.average is None else state.average.module
    return module


def _finish(state: _State) -> None:
    state.network.load_state_dict(state.best_weights or _current(state).state_dict())
    state.network.eval()


# -- checkpoint -----------------------------------------------------------------------------------


def _snapshot(state: _State) -> dict[str, Any]:
    return {
        "step": state.step,
        "seconds": state.seconds,
        "network": state.network.state_dict(),
        "average": state.average.state_dict() if state.average is not None else {},
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "best": {
            "step": state.best_step,
            "loss": state.best_loss,
            "weights": state.best_weights,
        },
    }


def _resume(state: _State, options: LoopOptions) -> None:
    saved = load_checkpoint(options.folder, options.device)
    if saved is None:
        return
    path = options.folder / CHECKPOINT
    try:
        state.network.load_state_dict(saved["network"])
        if state.average is not None:
            state.average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scaler.load_state_dict(saved["scaler"])
        best = saved["best"]
        state.best_step, state.best_loss = best["step"], best["loss"]
        state.best_weights = best["weights"]
        state.step, state.seconds = saved["step"], saved["seconds"]
        state.looked_done, state.looked_step = _done(state, options), state.step
    except (KeyError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{path} is of another network or of other options; choose another --out, or remove the file to begin "
            "again.",
            code="training-checkpoint",
        ) from error
    _log.info("resumed", step=state.step, checkpoint=str(path))
