"""How a run is watched: a bar on a terminal, log lines elsewhere, TensorBoard where it is installed."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.training.checkpoint import disk_error
from pipelines.training.loop import Progress as LoopProgress

_log = structlog.get_logger(__name__)

Watch = Callable[[LoopProgress], None]
Item = TypeVar("Item")

#: Seconds between two log lines where there is no terminal.
_LOG_EVERY_S = 30.0
#: Weight of the newest loss in the one that is shown.
_SMOOTHING = 0.05


@contextmanager
def watched(label: str, folder: Path) -> Iterator[Watch]:
    """Show a training run while it lasts.

    Parameters
    ----------
    label
        Name of the run.
    folder
        TensorBoard's files go to its sub-folder `tensorboard`.
    """
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(label) if sys.stderr.isatty() else _lines(label))
        watches = [bar, *stack.enter_context(_tensorboard(folder))]

        def watch(progress: LoopProgress) -> None:
            for one in watches:
                one(progress)

        yield watch


def counted(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Yield items, and show how many are done."""
    if not sys.stderr.isatty():
        started = said = time.monotonic()
        for number, item in enumerate(items, start=1):
            yield item
            if number == total or time.monotonic() - said >= _LOG_EVERY_S:
                said = time.monotonic()
                _log.info(label, done=number, of=total, seconds=round(said - started, 1))
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total)


@contextmanager
def _bar(label: str) -> Iterator[Watch]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:.2f} steps/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=1.0, step=0, loss=float("nan"), speed=0.0)
        first: LoopProgress | None = None
        smooth = float("nan")

        def watch(progress: LoopProgress) -> None:
            nonlocal first, smooth
            first = first or progress
            smooth = _smoothed(smooth, progress.loss)
            bar.update(
                task,
                completed=progress.done,
                step=progress.step,
                loss=smooth,
                speed=_speed(first, progress),
            )

        yield watch


@contextmanager
def _lines(label: str) -> Iterator[Watch]:
    first: LoopProgress | None = None
    smooth, said = float("nan"), time.monotonic()

    def watch(progress: LoopProgress) -> None:
        nonlocal first, smooth, said
        first = first or progress
        smooth = _smoothed(smooth, progress.loss)
        if time.monotonic() - said < _LOG_EVERY_S and progress.done < 1 and not progress.validation:
            return
        said = time.monotonic()
        left = (progress.seconds / progress.done - progress.seconds) if progress.done else 0.0
        _log.info(
            "training",
            run=label,
            step=progress.step,
            done=f"{progress.done:.1%}",
            loss=round(smooth, 4),
            validation=progress.validation,
            steps_per_s=round(_speed(first, progress), 2),
            seconds_left=round(left),
        )

    yield watch


@contextmanager
def _tensorboard(folder: Path) -> Iterator[list[Watch]]:
    if find_spec("tensorboard") is None:
        _log.info("no TensorBoard logs: install osteonode[training] to have them")
        yield []
        return
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - only where it is installed

    try:
        with SummaryWriter(folder / "tensorboard") as writer:

            def watch(progress: LoopProgress) -> None:
                scalars = {"loss": progress.loss, "learning rate": progress.learning_rate}
                if progress.validation is not None:
                    scalars["validation loss"] = progress.validation
                for name, value in scalars.items():
                    writer.add_scalar(name, value, progress.step)

            yield [watch]
    except OSError as error:
        raise disk_error(folder / "tensorboard", error) from error


def _smoothed(before: float, now: float) -> float:
    return now if math.isnan(before) else (1 - _SMOOTHING) * before + _SMOOTHING * now


def _speed(first: LoopProgress, now: LoopProgress) -> float:
    return (now.step - first.step) / max(1e-6, now.seconds - first.seconds)
