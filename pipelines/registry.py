"""Which pipelines there are: those that ship, and the hospital's own.

A pipeline is a folder: `pipeline.toml`, `pipeline.py`, a model card, weights. Finding them reads manifests only; code
and weights are loaded where they run (`load_pipeline`). A broken folder does not stop the others: it is an error
beside them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pipelines.errors import ManifestError, PipelineError, WeightsError
from pipelines.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipelines.result import LoadContext, Pipeline

#: The pipelines that ship.
BUILT_IN = Path(__file__).resolve().parent
MODULE_NAME = "pipeline.py"
#: node/confinement.py
_MAY_NOT = (
    "it may read files, write temporary ones (tempfile) and to /dev/shm, and not use the network."
)
TRAINING_NAME = "training.py"
PHANTOMS_NAME = "phantoms.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineEntry:
    """One pipeline as it lies on disk; nothing of it is loaded."""

    manifest: Manifest
    folder: Path
    #: The file of weights the manifest names, present or not; None when it names none.
    weights: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The pipelines found, by name, and what was wrong with the others."""

    entries: Mapping[str, PipelineEntry]
    errors: tuple[ManifestError, ...] = ()

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Name -> manifest: what routing needs."""
        return {name: entry.manifest for name, entry in self.entries.items()}

    def get(self, name: str) -> PipelineEntry:
        """The pipeline of that name.

        Raises
        ------
        ManifestError
            Code `pipeline-unknown`, with the names there are and the folders that could not be read.
        """
        if name in self.entries:
            return self.entries[name]
        known = ", ".join(sorted(self.entries)) or "none"
        broken = "".join(f" Unreadable: {error}." for error in self.errors)
        raise ManifestError(
            f"There is no pipeline {name!r}; there is {known}.{broken}", code="pipeline-unknown"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPipeline:
    """A pipeline whose code is imported and whose weights are on the device."""

    entry: PipelineEntry
    pipeline: Pipeline
    #: What its `load` returned.
    model: Any
    device: str


# -- finding --------------------------------------------------------------------------------------


def find_pipelines(folders: Sequence[Path] = ()) -> Registry:
    """The pipelines that ship, and each sub-folder of `folders`; of two of one name the first found counts."""
    entries: dict[str, PipelineEntry] = {}
    errors: list[ManifestError] = []
    candidates = [path for path in _subfolders(BUILT_IN) if (path / MANIFEST_NAME).is_file()]
    for folder in folders:
        try:
            candidates += _own_pipelines(folder)
        except ManifestError as error:
            errors.append(error)
    for path in candidates:
        try:
            entry = read_entry(path)
        except ManifestError as error:
            errors.append(error)
            continue
        first = entries.setdefault(entry.manifest.name, entry)
        if first.folder != entry.folder:
            errors.append(
                ManifestError(
                    f"Two pipelines are named {entry.manifest.name!r}: {first.folder} and {entry.folder}; "
                    f"the first is used, rename the second",
                    code="pipeline-name-clash",
                )
            )
    return Registry(entries=entries, errors=tuple(errors))


def read_entry(folder: Path) -> PipelineEntry:
    """One pipeline's folder.

    Raises
    ------
    ManifestError
        Naming the file and the key.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    if not (folder / MODULE_NAME).is_file():
        raise ManifestError(f"{folder / MODULE_NAME}: there is no such file")
    weights = folder / manifest.weights.file if manifest.weights else None
    if weights is not None and weights.parent != folder:
        raise ManifestError(f"{folder / MANIFEST_NAME}: weights.file: must lie beside the manifest")
    return PipelineEntry(manifest=manifest, folder=folder, weights=weights)


def _own_pipelines(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ManifestError(f"{folder}: there is no such folder of pipelines")
    if (folder / MANIFEST_NAME).is_file():
        raise ManifestError(
            f"{folder}: is a pipeline itself; name the folder above it, {folder.resolve().parent}"
        )
    return _subfolders(folder)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")


# -- loading --------------------------------------------------------------------------------------


def check_weights(entry: PipelineEntry) -> None:
    """Compare the file of weights with the checksum in the manifest.

    Raises
    ------
    WeightsError
        Naming the file and what to do.
    """
    if entry.weights is None or entry.manifest.weights is None:
        return
    expected = entry.manifest.weights.sha256
    try:
        with entry.weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"Weights {entry.weights} cannot be read ({error.strerror}); install the file with SHA-256 {expected}.",
            code="weights-missing",
        ) from error
    if found != expected:
        raise WeightsError(
            f"Weights {entry.weights} have SHA-256 {found}, but {MANIFEST_NAME} says {expected}; install the file "
            f"that belongs to version {entry.manifest.version}, or correct the manifest."
        )


def load_pipeline(entry: PipelineEntry, device: str) -> LoadedPipeline:
    """Check the weights, import `pipeline.py`, and call its `load`.

    Parameters
    ----------
    entry
        From the registry.
    device
        torch device, e.g. `cpu` or `cuda:0`.

    Raises
    ------
    WeightsError
        When the weights are not those of the manifest.
    ManifestError
        When the module cannot be imported, or breaks the contract (`pipelines.result.Pipeline`).
    PipelineError
        Whatever `load` raises of this tree; code `pipeline-crashed` for anything else.
    """
    check_weights(entry)
    pipeline = _import_pipeline(entry)
    context = LoadContext(
        manifest=entry.manifest, folder=entry.folder, device=device, weights=entry.weights
    )
    with pipeline_code(entry):
        model = pipeline.load(context)
    return LoadedPipeline(entry=entry, pipeline=pipeline, model=model, device=device)


@contextmanager
def pipeline_code(entry: PipelineEntry) -> Iterator[None]:
    """Around every call of a pipeline's own code, which may raise anything: let only our tree and MemoryError out.

    Raises
    ------
    PipelineError
        As raised, or of code `pipeline-crashed`; `pipeline-not-permitted` where the system denied it something.
    MemoryError
        When the machine or the device has none left: another attempt may succeed.
    """
    try:
        yield
    except MemoryError:
        raise
    except PipelineError as error:
        # A class of the pipeline's own module cannot be unpickled in the node: its nearest class here can.
        kind = next(k for k in type(error).__mro__ if k.__module__ == PipelineError.__module__)
        if kind is type(error):
            raise
        raise kind(str(error), code=error.code) from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, of CUDA; torch may not be loaded
            raise MemoryError("the device has no memory left") from error
        failed = f"Pipeline {entry.manifest.name} {entry.manifest.version} failed with {_describe(error, entry.folder)}"
        if _is_denied(error):
            raise PipelineError(f"{failed}: {_MAY_NOT}", code="pipeline-not-permitted") from error
        raise PipelineError(f"{failed}.", code="pipeline-crashed") from error


def _is_denied(error: BaseException | None) -> bool:
    """Whether the system said no, behind whatever a library made of it."""
    while error is not None and not isinstance(error, PermissionError):
        error = error.__cause__ or error.__context__
    return error is not None


def _describe(error: BaseException, folder: Path) -> str:
    """Type of an error and the deepest line of the folder it passed; never its text, which may name a patient."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if path.is_relative_to(folder):
            place = f" at {path.relative_to(folder)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{type(error).__name__}{place}"


def _import_pipeline(entry: PipelineEntry) -> Pipeline:
    path = entry.folder / MODULE_NAME
    module = _import_beside(entry, path)
    for name, arguments in (("load", 1), ("run", 3)):
        function = getattr(module, name, None)
        try:
            inspect.signature(function).bind(*[None] * arguments)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ManifestError(
                f"{path}: needs a function {name} of {arguments} arguments (pipelines.result.Pipeline)",
                code="pipeline-broken",
            ) from error
    return cast(Pipeline, module)


def import_training(entry: PipelineEntry) -> ModuleType:
    """Import `training.py`, which declares how the pipeline is trained (`pipelines.training.recipe`).

    Raises
    ------
    ManifestError
        Code `no-training` when there is none, `pipeline-broken` when it cannot be imported.
    """
    path = entry.folder / TRAINING_NAME
    if not path.is_file():
        raise ManifestError(
            f"Pipeline {entry.manifest.name} cannot be trained here: {path} is missing.",
            code="no-training",
        )
    return _import_beside(entry, path)


def import_phantoms(entry: PipelineEntry) -> ModuleType | None:
    """Import `phantoms.py`, which computes studies that suit the pipeline; None when there is none.

    Raises
    ------
    ManifestError
        Code `pipeline-broken` when it cannot be imported.
    """
    path = entry.folder / PHANTOMS_NAME
    return _import_beside(entry, path) if path.is_file() else None


def _import_beside(entry: PipelineEntry, path: Path) -> ModuleType:
    try:
        return _import_module(entry, path.stem)
    except Exception as error:  # a module's top level may raise anything
        raise ManifestError(
            f"{path}: cannot be imported: {_describe(error, entry.folder)}: {error}",
            code="pipeline-broken",
        ) from error


def _import_module(entry: PipelineEntry, module: str) -> ModuleType:
    """Import by path, as a package of its own, so that `from . import preprocessing` finds the file beside it."""
    name = entry.manifest.name
    if entry.folder.parent == BUILT_IN:
        return importlib.import_module(f"pipelines.{name}.{module}")
    place = hashlib.sha256(str(entry.folder).encode()).hexdigest()[:12]
    package = f"_osteonode_pipeline_{name}_{place}"
    # A folder that was changed is read again.
    for loaded in [m for m in sys.modules if m == package or m.startswith(f"{package}.")]:
        del sys.modules[loaded]
    importlib.invalidate_caches()
    spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
    spec.submodule_search_locations = [str(entry.folder)]
    sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{module}")
