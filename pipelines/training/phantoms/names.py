"""One vocabulary of structures, whatever the source calls them, and the tissue each is made of.

Vertebrae are `C1` ... `L5`, ribs `rib_left_7`, whatever comes in pairs ends in `_left` or
`_right`, muscles have their Latin names: `psoas_major_left`.
"""

import re
from collections.abc import Mapping

from pipelines.training.phantoms.tissues import Tissue

#: Pattern -> replacement, applied in this order to the lower-case name.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^cervical_?(\d+)$", r"c\1"),
    (r"^thoracic_?(\d+)$", r"t\1"),
    (r"^lumbar_?(\d+)$", r"l\1"),
    (r"^(left|right)_(.+)$", r"\2_\1"),
    (r"_muscle", ""),
    (r"^psoas_(left|right)$", r"psoas_major_\1"),
    (r"^(iliocostalis|longissimus|spinalis)_", "erector_spinae_"),
    (r"^(semispinalis|multifidus|rotatores)_", "transversospinalis_"),
    (r"^rib_?(\d+)$", r"rib_\1"),
    (r"^pelvis$", "hip_bone"),
    (r"^sacrum-(l\d)-intervertebraldisc$", r"disc_\1_S1"),
    (r"^(\w\d+)-(\w\d+)-intervertebraldisc$", r"disc_\2_\1"),
    (r"^body$", "soft_tissue"),
)
#: Names of one label for both sides: the label is parted at the middle of the body.
_PAIRED = re.compile(r"^(hip_bone|rib_\d+)$")
#: The first pattern that is found in a name gives its tissue; no pattern: muscle.
_PATTERNS: tuple[tuple[str, Tissue], ...] = (
    (r"^(background|air)$", Tissue.AIR),
    (r"disc", Tissue.DISC),
    (r"cartilage", Tissue.CARTILAGE),
    (r"bronch|trachea|air_cavity", Tissue.GAS),
    (r"^lungs?(_|$)", Tissue.LUNG),
    (r"renal_pelvis|ureter|(?<!gall)bladder", Tissue.URINE),
    (r"artery|vein|aorta|vena_cava|trunk$", Tissue.VESSEL),
    (r"spinal_c", Tissue.CANAL),
    (r"muscle", Tissue.MUSCLE),
    (r"liver", Tissue.LIVER),
    (r"spleen", Tissue.SPLEEN),
    (r"kidney", Tissue.KIDNEY),
    (r"heart", Tissue.HEART),
    (r"brain", Tissue.BRAIN),
    (r"stomach|duodenum|colon|ileum|bowel|rectum$|esophagus", Tissue.BOWEL),
    (r"pancreas|gland|prostate|gallbladder", Tissue.SOFT),
    (r"subcutaneous|internal_soft_tissue|^fat$", Tissue.FAT),
    (r"^[CTL]\d+$|cervical|thoracic|lumbar", Tissue.SPINE),
    (r"^rib", Tissue.RIB),
    (r"skull", Tissue.SKULL),
    (r"^(femur|humerus|radius|ulna|clavicle)", Tissue.LONG_BONE),
    (r"^(sacrum|coccyx|pelvis|hip_bone|scapula|sternum|skeleton|bone$)", Tissue.FLAT_BONE),
)


def normalise(name: str) -> str:
    """Return the vocabulary's name for a label of an atlas."""
    known = name.strip().lower().replace(" ", "_")
    for pattern, replacement in _RULES:
        known = re.sub(pattern, replacement, known)
    return re.sub(r"(?<![a-z])[ctl]\d+(?![a-z\d])", lambda found: found[0].upper(), known)


def tissue_of(name: str) -> Tissue:
    """Return the tissue that a name speaks of."""
    for pattern, tissue in _PATTERNS:
        if re.search(pattern, name, re.IGNORECASE):
            return tissue
    return Tissue.MUSCLE


def is_paired(name: str) -> bool:
    """Return whether a normalised name stands for a left and a right structure at once."""
    return _PAIRED.match(name) is not None


def sided(name: str, side: str) -> str:
    """Return the name of one side of a paired structure."""
    rib = re.match(r"^rib_(\d+)$", name)
    return f"rib_{side}_{rib[1]}" if rib else f"{name}_{side}"


def mirrored(names: Mapping[int, str]) -> dict[int, str]:
    """Return the names of a body seen in a mirror: left is right."""
    swap = {"left": "right", "right": "left"}
    return {
        code: re.sub(r"(?<=_)(left|right)(?=_|$)", lambda found: swap[found[0]], name)
        for code, name in names.items()
    }
