"""The training loop: one network, one stream of samples, checkpoints to resume from."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from monai.losses.dice import DiceCELoss
from torch import nn

from pipelines.training.stream import Sample

_log = structlog.get_logger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How long and how fast to learn."""

    steps: int
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: int = 50  #: steps until the full learning rate
    save_every: int = 100  #: steps between two checkpoints
    device: str = "cpu"
    folder: Path  #: where the checkpoint lies; one that is there is resumed from


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """What a run of the loop did."""

    first_step: int  #: above 0 when a checkpoint was resumed
    losses: tuple[float, ...]  #: of the steps of this run
    seconds: float


def run_loop(
    network: nn.Module,
    batches: Callable[[int], Iterable[Sample]],
    options: LoopOptions,
) -> LoopResult:
    """Train a network in place.

    Parameters
    ----------
    network
        Takes float32 (batch, 1, rows, columns), returns logits of the same shape.
    batches
        From the first step to the stream of (image, truth) batches; never ends.
    options
        Length, learning rate, device, checkpoint.

    Returns
    -------
    LoopResult
        The losses; the weights are in `network`.
    """
    device = torch.device(options.device)
    network.to(device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options))
    first = _resume(network, optimizer, schedule, options)
    loss_of = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    losses: list[float] = []
    started = time.monotonic()
    stream = _limited(batches(first), options.steps - first) if first < options.steps else ()
    for step, (image, truth) in enumerate(stream, start=first + 1):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(image.to(device))
        loss = loss_of(logits.float(), truth.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % options.save_every == 0 or step == options.steps:
            _save(network, optimizer, schedule, step, options)
            recent = losses[-options.save_every :]
            _log.info(
                "trained",
                step=step,
                steps=options.steps,
                loss=round(sum(recent) / len(recent), 4),
                seconds=round(time.monotonic() - started, 1),
            )
    return LoopResult(first_step=first, losses=tuple(losses), seconds=time.monotonic() - started)


def _rate(step: int, options: LoopOptions) -> float:
    """Return the share of the learning rate at a step: warm up, then a half cosine to 1 %."""
    if step < options.warm_up:
        return (step + 1) / options.warm_up
    done = min(1.0, (step - options.warm_up) / max(1, options.steps - options.warm_up))
    return 0.01 + 0.99 * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))


def _limited(batches: Iterable[Sample], count: int) -> Iterator[Sample]:
    iterator = iter(batches)
    for _ in range(count):
        yield next(iterator)


def _save(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    step: int,
    options: LoopOptions,
) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / CHECKPOINT
    state = {
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    # A kill while writing must leave the last whole checkpoint.
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    options: LoopOptions,
) -> int:
    path = options.folder / CHECKPOINT
    if not path.exists():
        return 0
    state = torch.load(path, map_location=options.device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    _log.info("resumed", step=state["step"], checkpoint=str(path))
    return int(state["step"])
