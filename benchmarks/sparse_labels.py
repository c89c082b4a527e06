"""What it costs to label one slice of each vertebra instead of all: two trainings of the muscle pipeline side by side.

    python benchmarks/sparse_labels.py --sparse V/weights.safetensors --full F/weights.safetensors --atlas DIR

Both are evaluated on the same held-out phantoms by the product's own inference, and the network of slices alone with
them. Weights come from `osteonode pipelines train ct_trunk_muscle --stage volume` and `--stage full`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import highdicom as hd
from torch import nn

from pipelines.ct_trunk_muscle.networks import Part
from pipelines.ct_trunk_muscle.training import RECIPE
from pipelines.training.assess import ALL_STRUCTURES, assess, summaries_of
from pipelines.training.export import load_weights

_FIRST_SEED = 1_000_000


def _segment(network: nn.Module, part: Part, image: hd.Volume) -> hd.Volume:
    return RECIPE.segment(network, image, part)


def main() -> None:
    """Print mean Dice by muscle."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--sparse", type=Path, required=True, help="weights of --stage volume")
    parser.add_argument("--full", type=Path, required=True, help="weights of --stage full")
    parser.add_argument("--atlas", type=Path, help="folder of label maps; else procedural bodies")
    parser.add_argument("--phantoms", type=int, default=12, help="held-out studies")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    sparse, full = (load_weights(RECIPE, path, given.device) for path in (given.sparse, given.full))
    methods = {
        "slices alone": partial(_segment, sparse, Part.SLICES),
        "sparse": partial(_segment, sparse, Part.VOLUME),
        "full": partial(_segment, full, Part.VOLUME),
    }
    study = RECIPE.phantom_study(given.atlas)
    cases = (study(_FIRST_SEED + number) for number in range(given.phantoms))
    found = assess(methods, cases, RECIPE.structures)
    by_method = {
        name: summaries_of([record for record in found.records if record.variant == name])
        for name in methods
    }
    print(
        f"Phantom data: {found.studies} studies of {RECIPE.describe_phantoms(given.atlas)}. Mean Dice.\n"
    )
    print("| muscle | " + " | ".join(methods) + " |\n|---|" + "---|" * len(methods))
    for structure in (*RECIPE.structures.values(), ALL_STRUCTURES):
        row = [by_method[name].get(structure) for name in methods]
        cells = [f"{one.figures['dice'].mean:.3f}" if one and one.present else "" for one in row]
        print(f"| {structure} | " + " | ".join(cells) + " |")
    print("\nRefused: " + ", ".join(f"{name} {count}" for name, count in found.refused.items()))


if __name__ == "__main__":
    main()
