"""What a pipeline declares: `pipeline.toml`, checked once.

The manifest says what a pipeline *can* take, what it makes, and within which limits; a rule says what *shall*
run. It is data: receiving and routing read it without importing the pipeline's code.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydicom.sr.coding import Code

from pipelines.errors import ManifestError
from storage.model import Parameters

MANIFEST_NAME = "pipeline.toml"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeSpec(_Model):
    """A code sequence item's three parts (PS3.3 Table 8.8-1)."""

    value: str = Field(max_length=16, description="Code Value (0008,0100).")
    scheme: str = Field(
        max_length=16, description="Coding Scheme Designator (0008,0102): SCT, DCM, UCUM ..."
    )
    meaning: str = Field(max_length=64, description="Code Meaning (0008,0104).")

    def to_code(self) -> Code:
        """The same as pydicom's value."""
        return Code(self.value, self.scheme, self.meaning)


class InputSpec(_Model):
    """One role: a series the pipeline takes."""

    modality: tuple[str, ...] = Field(
        min_length=1, description="Modality (0008,0060), any of these."
    )
    min_instances: int = Field(1, ge=1, description="Fewest instances (or frames) that make sense.")
    optional: bool = Field(
        False, description="Whether the pipeline can run without it; one input there is always."
    )
    same_frame_as: str | None = Field(
        None, description="A role whose Frame of Reference UID (0020,0052) must be the same."
    )
    description: str = Field("", description="A sentence for people.")


class SegmentSpec(_Model):
    """One kind of structure the pipeline segments."""

    number: int = Field(
        ge=1, le=65535, description="Segment Number (0062,0004), and the value in the label map."
    )
    label: str = Field(max_length=64, description="Segment Label (0062,0005).")
    category: CodeSpec = Field(description="Segmented Property Category (0062,0003).")
    type: CodeSpec = Field(description="Segmented Property Type (0062,000F).")
    site: CodeSpec | None = Field(
        None, description="Anatomic Region, when the type does not imply it."
    )
    laterality: CodeSpec | None = Field(
        None, description="Laterality modifier of the type (CID 244)."
    )
    rgb: tuple[int, int, int] = Field(description="Display colour, sRGB 0-255; written as CIELab.")


class WeightsSpec(_Model):
    """A file of weights beside the manifest."""

    file: str = Field(description="File name, safetensors.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file; loading checks it."
    )


class LimitsSpec(_Model):
    """What one run may cost before it is stopped."""

    time_s: float = Field(1800.0, gt=0, description="Seconds before the worker is stopped.")
    memory_mb: int = Field(8192, gt=0, description="Resident megabytes a run needs at most.")


#: Typed on command lines and in rules.
Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
ParameterValue = Annotated[str | int | float | bool, Field(union_mode="smart")]


class Manifest(_Model):
    """A pipeline's declaration."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{1,39}$", description="Name, equal to the folder's.")
    version: str = Field(
        pattern=r"^\d+\.\d+\.\d+$", description="Version; changes when results may."
    )
    title: str = Field(max_length=64, description="One line for people.")
    description: str = Field("", description="What it does, from which publication.")
    manufacturer: str = Field(
        "OsteoNode", max_length=64, description="Algorithm Source (0024,0202)."
    )
    family: Literal["artificial_intelligence", "classical"] = "artificial_intelligence"
    procedure: CodeSpec = Field(
        description="Procedure reported when the images carry no procedure code: the imaging, not the algorithm."
    )
    inputs: Mapping[Role, InputSpec] = Field(min_length=1, description="Role -> what it takes.")
    segments: tuple[SegmentSpec, ...] = Field(min_length=1)
    parameters: Mapping[str, ParameterValue] = Field(
        default_factory=dict, description="Name -> default; a rule may override."
    )
    weights: WeightsSpec | None = None
    limits: LimitsSpec = LimitsSpec()

    @model_validator(mode="after")
    def _numbers_run_from_one(self) -> Manifest:
        numbers = [segment.number for segment in self.segments]
        # PS3.3 C.8.20.2: Segment Number starts at 1 and increases by 1.
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"segments: numbers must run 1, 2, 3 ... in order, not {numbers}")
        return self

    @model_validator(mode="after")
    def _frames_are_of_other_roles(self) -> Manifest:
        for role, spec in self.inputs.items():
            others = [other for other in self.inputs if other != role]
            if spec.same_frame_as is not None and spec.same_frame_as not in others:
                raise ValueError(
                    f"inputs.{role}.same_frame_as: {spec.same_frame_as!r} is none of the other inputs: "
                    f"{', '.join(others) or 'there is none'}"
                )
        return self

    def merge(self, overrides: Parameters) -> dict[str, str | int | float | bool]:
        """The manifest's parameters with a rule's overrides.

        Raises
        ------
        ManifestError
            For a parameter that the manifest does not declare, or a value of another type than its default.
        """
        merged = dict(self.parameters)
        for name, value in overrides.items():
            if name not in merged:
                raise ManifestError(
                    f"Pipeline {self.name} has no parameter {name!r}; it has {', '.join(sorted(merged)) or 'none'}.",
                    code="parameter-unknown",
                )
            default = merged[name]
            # TOML and the command line write 1 for 1.0.
            given = float(value) if type(default) is float and type(value) is int else value
            if type(given) is not type(default):
                raise ManifestError(
                    f"Parameter {name!r} of pipeline {self.name} takes a {type(default).__name__} "
                    f"(as {default!r}), not {value!r}.",
                    code="parameter-invalid",
                )
            merged[name] = given
        return merged


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder/pipeline.toml`.

    Raises
    ------
    ManifestError
        Naming the file and the key.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(f"{path}: {error}") from error
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg']}"
            for item in error.errors()
        )
        raise ManifestError(f"{path}: {places}") from error
    if manifest.name != folder.name:
        raise ManifestError(
            f"{path}: name: is {manifest.name!r}, but the folder is {folder.name!r}; make them equal"
        )
    return manifest
