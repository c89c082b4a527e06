"""New weights beside a pipeline's manifest, and the manifest told so."""

from __future__ import annotations

import re
import tomllib
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from pipelines.errors import ManifestError, WeightsError
from pipelines.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipelines.training.checkpoint import write_whole
from pipelines.training.export import put_weights, read_about
from pipelines.training.recipe import Recipe


def install_weights(recipe: Recipe, folder: Path, weights: Path, version: str) -> Manifest:
    """Copy weights beside a manifest and write their SHA-256 and the new version into it.

    Two versions of a pipeline are told apart by their version in every result, so other weights need another one.

    Parameters
    ----------
    recipe
        Of the pipeline: its network must take the weights.
    folder
        Of the pipeline.
    weights
        safetensors that `train` wrote.
    version
        `X.Y.Z`, higher than the manifest's.

    Returns
    -------
    Manifest
        As it is now.

    Raises
    ------
    WeightsError
        When they are of another pipeline or network, or of other widths than those that ship.
    ManifestError
        When the manifest names no weights, or the version is not higher.
    TrainingError
        `training-disk`, when the folder cannot be written.
    """
    manifest = read_manifest(folder)
    path = folder / MANIFEST_NAME
    if manifest.weights is None:
        raise ManifestError(f"{path}: weights: add a table [weights] with file and sha256 first")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or _parts(version) <= _parts(manifest.version):
        raise ManifestError(
            f"{path}: version: is {manifest.version}; other weights need a higher one (X.Y.Z), not {version!r}"
        )
    _demand_same_pipeline(recipe, weights)
    put_weights(recipe.make_network(None), weights)
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise WeightsError(f"{weights}: {error.strerror}") from error
    digest = sha256(content).hexdigest()
    text = edit_manifest(path.read_text("utf-8"), version=version, digest=digest)
    changed = _demand_nothing_else_changed(text, manifest, path, (version, digest))
    # Between the two writes the pipeline refuses to load, by the checksum: never the old version's name on new weights.
    write_whole(folder / manifest.weights.file, content)
    write_whole(path, text.encode())
    return changed


def _demand_same_pipeline(recipe: Recipe, weights: Path) -> None:
    """Networks of different pipelines may be built alike; what they were trained to find is not."""
    pipeline = read_about(weights).get("pipeline") or recipe.pipeline
    if pipeline != recipe.pipeline:
        raise WeightsError(
            f"{weights} was trained as {pipeline}, not {recipe.pipeline}; train {recipe.pipeline} from it with --init."
        )


def edit_manifest(text: str, *, version: str, digest: str) -> str:
    """Return a manifest's text with another `version` and `[weights] sha256`; comments and order stay."""
    head, mark, rest = _split_at(text, r"(?m)^\[")
    head = re.sub(r'(?m)^(version\s*=\s*)"[^"\n]*"', rf'\g<1>"{version}"', head, count=1)
    before, table, after = _split_at(mark + rest, r"(?m)^\[weights\][^\n]*\n")
    own, following, others = _split_at(after, r"(?m)^\[")
    own = re.sub(r'(?m)^(sha256\s*=\s*)"[^"\n]*"', rf'\g<1>"{digest}"', own, count=1)
    return head + before + table + own + following + others


def _split_at(text: str, pattern: str) -> tuple[str, str, str]:
    found = re.search(pattern, text)
    if found is None:
        return text, "", ""
    return text[: found.start()], found.group(), text[found.end() :]


def _demand_nothing_else_changed(
    text: str, before: Manifest, path: Path, wanted: tuple[str, str]
) -> Manifest:
    """Read the edited text again: it must say what the old one said, but for the two keys."""
    try:
        after = Manifest.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ManifestError(
            f"{path}: cannot be edited; write version and sha256 yourself"
        ) from error
    version, digest = wanted
    weights = before.weights.model_copy(update={"sha256": digest}) if before.weights else None
    if after != before.model_copy(update={"version": version, "weights": weights}):
        raise ManifestError(
            f"{path}: cannot be edited; write version = {version!r} and [weights] sha256 = {digest!r} yourself"
        )
    return after


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
