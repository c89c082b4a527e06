"""In which plane of the body a series lies. Pure."""

from __future__ import annotations

from math import isfinite, sqrt

from storage.model import Header

#: Planes by the axis of the patient that their normal is nearest to: right to left, front to back, foot to head.
_PLANES = ("sagittal", "coronal", "axial")
#: Cosine of the most that a normal leans from its axis: 36.9 degrees. A gantry tilts 30 at most.
_NEAR = 0.8
_COSINES = 6


def plane_of(header: Header) -> str | None:
    """`axial`, `coronal`, `sagittal` or `oblique`, from Image Orientation (Patient) (PS3.3 C.7.6.2.1.1); else None."""
    values = header.get("ImageOrientationPatient", ())
    cosines = [float(value) for value in values if isinstance(value, int | float)]
    if len(cosines) != _COSINES or not all(map(isfinite, cosines)):
        return None
    (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = sqrt(sum(part * part for part in normal))
    if length == 0:
        return None
    most, plane = max(
        (abs(part) / length, name) for part, name in zip(normal, _PLANES, strict=True)
    )
    return plane if most >= _NEAR else "oblique"
