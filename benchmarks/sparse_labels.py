"""What it costs to label one slice of each vertebra instead of all: two trainings of the muscle pipeline side by side.

    python benchmarks/sparse_labels.py --sparse V/weights.safetensors --full F/weights.safetensors --atlas DIR

Both are evaluated on the same held-out phantoms by the product's own inference, and the network of slices alone with
them. Weights come from `osteonode pipelines train ct_trunk_muscle --stage volume` and `--stage full`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipelines.ct_trunk_muscle.networks import Part
from pipelines.ct_trunk_muscle.training import RECIPE
from pipelines.training.assess import ALL_STRUCTURES, assess, methods_of, summaries_of
from pipelines.training.export import load_weights
from pipelines.training.figures import Record, Summary
from pipelines.training.progress import counted

_FIRST_SEED = 1_000_000


def main() -> None:
    """Print mean Dice by muscle and by group of studies."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--sparse", type=Path, required=True, help="weights of --stage volume")
    parser.add_argument("--full", type=Path, required=True, help="weights of --stage full")
    parser.add_argument("--atlas", type=Path, help="folder of label maps; else procedural bodies")
    parser.add_argument("--phantoms", type=int, default=12, help="held-out studies")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    sparse, full = (
        methods_of(RECIPE, load_weights(RECIPE, path, given.device))
        for path in (given.sparse, given.full)
    )
    methods = {
        "slices alone": sparse[Part.SLICES],
        "sparse": sparse[Part.VOLUME],
        "full": full[Part.VOLUME],
    }
    study = RECIPE.phantom_study(given.atlas)
    cases = (study(_FIRST_SEED + number) for number in range(given.phantoms))
    found = assess(methods, counted(cases, "comparing", given.phantoms), RECIPE.structures)
    bodies = RECIPE.describe_phantoms(given.atlas)
    print(f"Phantom data: {found.studies} studies of {bodies}. Mean Dice.\n")
    print("| muscle or group | " + " | ".join(methods) + " |\n|---|" + "---|" * len(methods))
    for structure in (*RECIPE.structures.values(), ALL_STRUCTURES):
        _print_row(structure, found.records, list(methods), structure)
    for group in sorted({record.group for record in found.records} - {""}):
        of_group = [record for record in found.records if record.group == group]
        _print_row(group, of_group, list(methods), ALL_STRUCTURES)
    print("\nRefused: " + ", ".join(f"{name} {count}" for name, count in found.refused.items()))


def _print_row(name: str, records: Sequence[Record], methods: list[str], structure: str) -> None:
    cells = []
    for method in methods:
        mine = [record for record in records if record.variant == method]
        cells.append(_cell(summaries_of(mine).get(structure)))
    print(f"| {name} | " + " | ".join(cells) + " |")


def _cell(summary: Summary | None) -> str:
    return f"{summary.figures['dice'].mean:.3f}" if summary and summary.present else ""


if __name__ == "__main__":
    main()
