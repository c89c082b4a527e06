"""Which muscles and vertebral levels there are, and their numbers."""

from collections.abc import Mapping

from pydicom.sr.coding import Code

#: Without their side, in the order of their segment numbers; a left muscle's is odd.
MUSCLES = (
    "erector_spinae",
    "transversospinalis",
    "psoas_major",
    "quadratus_lumborum",
    "rectus_abdominis",
    "external_oblique",
    "internal_oblique",
    "latissimus_dorsi",
)
SIDES = ("left", "right")
#: Muscle with its side -> segment number.
NUMBERS: Mapping[str, int] = {
    f"{muscle}_{side}": 2 * index + place
    for index, muscle in enumerate(MUSCLES)
    for place, side in enumerate(SIDES, start=1)
}
#: From the head down; the helper label of each is that of its vertebral body.
LEVELS = (*(f"T{number}" for number in range(4, 13)), "L1", "L2", "L3", "L4")
#: Vertebral level -> segment number of its body.
BODIES: Mapping[str, int] = {
    level: len(NUMBERS) + place for place, level in enumerate(LEVELS, start=1)
}
#: The level of the skeletal muscle index.
INDEX_LEVEL = "L3"

#: What the networks of muscles say: background, muscles, one class for all vertebral bodies.
BODY_CLASS = len(NUMBERS) + 1
CLASSES = BODY_CLASS + 1
#: Which of them each is in a mirror.
MIRRORED = (
    0,
    *(number + 1 if number % 2 else number - 1 for number in NUMBERS.values()),
    BODY_CLASS,
)
#: What the network of levels says: background, T4 ... L4.
LEVEL_CLASSES = len(LEVELS) + 1
#: A label that nobody gave: between labelled slices, and where no teacher is sure.
UNKNOWN = 255

#: Parts of phantoms that look like muscle and are none of one's belly: they count for nothing.
NOT_JUDGED = tuple(f"external_oblique_aponeurosis_{side}" for side in SIDES)

#: PS3.16 CID 7602, 7603.
LEVEL_CODES: Mapping[str, Code] = {
    level: Code(value, "SCT", f"{level} vertebra")
    for level, value in (
        ("T4", "73071006"),
        ("T5", "56401006"),
        ("T6", "45296009"),
        ("T7", "62487009"),
        ("T8", "11068009"),
        ("T9", "82687006"),
        ("T10", "7610001"),
        ("T11", "12989004"),
        ("T12", "23215003"),
        ("L1", "66794005"),
        ("L2", "14293000"),
        ("L3", "36470004"),
        ("L4", "11994002"),
    )
}
