"""`osteonode pipelines check`: is this folder a pipeline?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import read_config
from node.cli.output import show_fields

if TYPE_CHECKING:
    from pipelines.manifest import InputSpec
    from pipelines.registry import PipelineEntry, Registry


def check(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", exists=True, file_okay=False, help="Folder of one pipeline."
        ),
    ],
    device: Annotated[
        str, typer.Option(help="cpu, cuda:0 ...; the first GPU when there is one.")
    ] = "",
) -> None:
    """Check a folder that is to be a pipeline: manifest, weights, code; loads it as a worker would.

    What is wrong is told with the file and the key, exit code 6. `osteonode pipelines run` then tries it on images.

    Example: `osteonode pipelines check /opt/pipelines/dense_bone`
    """
    from node.demo_study import DEMO_STUDY, has_demo_study
    from pipelines.performing import choose_device
    from pipelines.registry import find_pipelines, load_pipeline, read_entry

    entry = read_entry(path)
    registry = find_pipelines(read_config(ctx).pipelines.folders)
    _demand_own_name(entry, registry)
    began = time.perf_counter()
    loaded = load_pipeline(entry, choose_device(device))
    took = time.perf_counter() - began
    manifest = entry.manifest
    card = entry.folder / "README.md"
    installed = manifest.name in registry.entries
    show_fields(
        {
            "manifest": f"{manifest.name} {manifest.version}, {manifest.title}",
            "takes": "; ".join(_input(role, spec) for role, spec in manifest.inputs.items()),
            "makes": f"{len(manifest.segments)} segment(s): "
            + ", ".join(segment.label for segment in manifest.segments),
            "weights": "their SHA-256 is the manifest's" if entry.weights else "none",
            "code": f"load and run are there; load took {took:.1f} s on {loaded.device}",
            "demo study": f"phantoms.py has {DEMO_STUDY}" if has_demo_study(entry) else "none",
            "model card": str(card)
            if card.is_file()
            else "none: README.md is to say from which data it is, for whom, how good",
            "installed": "yes" if installed else _how_to_install(entry),
        }
    )


def _demand_own_name(entry: PipelineEntry, registry: Registry) -> None:
    from pipelines.errors import ManifestError

    other = registry.entries.get(entry.manifest.name)
    if other is not None and other.folder != entry.folder:
        raise ManifestError(
            f"{other.folder} has the name {entry.manifest.name!r} already; rename the folder and `name`.",
            code="pipeline-name-clash",
        )


def _input(role: str, spec: InputSpec) -> str:
    text = f"{role}: {' or '.join(spec.modality)}, {spec.min_instances} instances or more"
    text += ", optional" if spec.optional else ""
    return text + (
        f", in the frame of reference of {spec.same_frame_as}" if spec.same_frame_as else ""
    )


def _how_to_install(entry: PipelineEntry) -> str:
    return f'no: write folders = ["{entry.folder.parent}"] under [pipelines] in the configuration'
