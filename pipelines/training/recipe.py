"""What a pipeline declares so that it can be trained and evaluated: `RECIPE` in its `training.py`.

`pipelines.training.train` and `pipelines.training.evaluate` are one machine for all pipelines; what is a
pipeline's own is here: its network and loss, its phantoms, what a training crop is, its inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import highdicom as hd
import numpy as np
import torch
from torch import nn

from pipelines.errors import TrainingError
from pipelines.training.case import Case, Found

#: Image and truth, float32, channel first, without a batch axis; with one in front once batched.
Sample: TypeAlias = tuple[torch.Tensor, torch.Tensor]
#: (logits, truth), both batched -> scalar.
Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Channels of the network's levels; None: those that ship.
Widths: TypeAlias = tuple[int, ...] | None
#: Draws one training crop.
Draw: TypeAlias = Callable[[np.random.Generator], Case]


def _computed_bodies(folder: Path | None) -> str:
    return "deformed label maps" if folder else "procedural bodies"


def _as_labelled(case: Case) -> Case:
    return case


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one pipeline is trained and evaluated.

    Attributes
    ----------
    folder
        The pipeline's: its manifest lies there, and its name is its name.
    make_network
        From widths to a network with fresh weights.
    make_loss
        What is minimised.
    phantom_crops
        From a folder of label maps (None: procedural) to what draws a training crop.
    phantom_study
        From a folder of label maps (None: procedural) to what makes a held-out study of a seed.
    describe_phantoms
        Which bodies held-out studies are of, in words; same argument.
    crop
        A random training crop of a whole labelled study, on the network's grid.
    judged
        From a study of own data to what of its labels is compared with, where the pipeline reports less than was
        labelled, or where not everything was labelled (`UNKNOWN`); phantom studies come so.
    prepare
        From a crop to a sample: preprocessing and augmentation.
    segment
        The product's own inference: network in eval mode, whole image, variant -> uint8 label map on its grid.
    find
        The same of a case with its partners, and with scores to rate lesions by; used instead of `segment` where given.
    rated
        Labels of positive and of negative lesions, whose areas under ROC curves are compared between variants (DeLong).
    schedule
        Called before each step with the network and the share of the run that is done: where parts of one network
        begin one after another *on the same crops*, which are rendered once for all. Also with the averaged network.
        What it does once must be kept by the network's state, for a run may be resumed.
    finish
        Called with the network when it has learned, before it is written: where the network of a later stage, which the
        same weights hold, begins as this one's.
    variants
        Ways to run the pipeline that are evaluated side by side.
    structures
        Label value -> name in reports.
    published, published_on
        The publication's figures by name of ours (`dice`, `iou`, `sensitivity`, `r2` ...), and the data they are of.
    references
        Name -> a simple method without a network to compare with: image -> uint8 label map on its grid.
    folds, test_share
        Cross-validation as in the publication, and the share of own cases kept out of it.
    phantoms, epochs, crops_per_case, batch_size, learning_rate, weight_decay
        How long and how fast, where nothing else is asked for. One epoch is each phantom once, or `crops_per_case`
        of each own case.
    pool
        Crops that a rendering process keeps to serve in random order; bounds its memory.
    stages
        Where networks are trained one after the other, in runs of their own, because a later one's *crops* need an
        earlier one whole (a teacher labels them), or are others: name -> from the weights of those before (`--init`,
        None: none) to the recipe of this one. In their order.
    stage
        Of which stage this recipe is; empty where there are none.
    teacher
        Weights of a network that labels crops; None: crops are labelled without one.
    """

    folder: Path
    make_network: Callable[[Widths], nn.Module]
    make_loss: Callable[[], Loss]
    phantom_crops: Callable[[Path | None], Draw]
    phantom_study: Callable[[Path | None], Callable[[int], Case]]
    describe_phantoms: Callable[[Path | None], str] = _computed_bodies
    crop: Callable[[Case, np.random.Generator], Case]
    judged: Callable[[Case], Case] = _as_labelled
    prepare: Callable[[Case, np.random.Generator], Sample]
    segment: Callable[[nn.Module, hd.Volume, str], hd.Volume]
    find: Callable[[nn.Module, Case, str], Found] | None = None
    rated: tuple[int, int] | None = None
    schedule: Callable[[nn.Module, float], None] | None = None
    finish: Callable[[nn.Module], None] | None = None
    variants: tuple[str, ...] = ("default",)
    structures: Mapping[int, str]
    published: Mapping[str, float] = field(default_factory=dict)
    published_on: str = ""
    references: Mapping[str, Callable[[hd.Volume], hd.Volume]] = field(default_factory=dict)
    folds: int = 5
    test_share: float = 0.1
    phantoms: int = 16_000
    epochs: int = 3
    crops_per_case: int = 16
    batch_size: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    pool: int = 48
    stages: Mapping[str, Callable[[Path | None], Recipe]] = field(default_factory=dict)
    stage: str = ""
    teacher: Path | None = None

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.folder.name

    def of_stage(self, stage: str, init: Path | None) -> Recipe:
        """Return the recipe of a stage, or this one where there are none.

        Raises
        ------
        TrainingError
            `training-stage`, naming the stages there are.
        """
        if stage in self.stages:
            return replace(self.stages[stage](init), stage=stage)
        if not self.stages and not stage:
            return self
        known = f"give --stage: {', '.join(self.stages)}" if self.stages else "leave out --stage"
        raise TrainingError(
            f"{self.pipeline} {'is trained in stages' if self.stages else 'has no stages'}: {known}.",
            code="training-stage",
        )
