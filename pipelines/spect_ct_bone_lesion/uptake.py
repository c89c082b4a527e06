"""Counts -> standardised uptake value, where the header has what it needs."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, TM

#: Half-lives in s by radionuclide (PS3.16 CID 18): NIST, of what bone scans are made with.
_HALF_LIFE = {codes.cid18._99mTechnetium.value: 6.0067 * 3600}
_SUV = "{SUVbw}g/ml"
_BECQUEREL = "Bq/ml"
#: PS3.3 C.8.4.10: megabecquerel. Doses above are becquerel, which some cameras write.
_LARGEST_MBQ = 1e5


def suv_factor(ds: Dataset) -> float | None:
    """Return what a stored value times which is SUVbw in g/mL, or None where the header does not tell.

    A Real World Value Mapping (PS3.3 C.7.6.16.2.11) in SUVbw, or one in Bq/mL with Patient's Weight, Radionuclide Total
    Dose and Start Time, Acquisition Time, and a radionuclide whose half-life is known. A mapping with an intercept is
    none of a counting device.

    Parameters
    ----------
    ds
        Of an NM image.
    """
    for item in ds.get("RealWorldValueMappingSequence") or ():
        slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
        units = item.get("MeasurementUnitsCodeSequence")
        if not slope or intercept or not units:
            continue
        unit = str(units[0].get("CodeValue", "")).replace("mL", "ml")
        if unit in (_SUV, "g/ml{SUVbw}"):
            return float(slope)
        if unit == _BECQUEREL:
            per_gram = _dose_per_gram(ds)
            return None if per_gram is None else float(slope) / per_gram
    return None


def _dose_per_gram(ds: Dataset) -> float | None:
    """Activity at the time of acquisition over the patient's weight, Bq/g; None where something is missing."""
    given = ds.get("RadiopharmaceuticalInformationSequence")
    weight = ds.get("PatientWeight")
    if not given or not weight or float(weight) <= 0:
        return None
    dose, nuclide = given[0].get("RadionuclideTotalDose"), given[0].get("RadionuclideCodeSequence")
    half_life = _HALF_LIFE.get(str(nuclide[0].get("CodeValue", ""))) if nuclide else None
    waited = _seconds_between(ds, given[0])
    if not dose or half_life is None or waited is None:
        return None
    becquerel = float(dose) * (1e6 if float(dose) < _LARGEST_MBQ else 1.0)
    return float(becquerel * 0.5 ** (waited / half_life) / (1000 * float(weight)))


def _seconds_between(ds: Dataset, given: Dataset) -> float | None:
    """From injection to acquisition; times without a date are of one day, or the day before."""
    try:
        day = DA(ds.get("AcquisitionDate") or ds.get("StudyDate"))
        acquired, injected = (
            TM(ds.get("AcquisitionTime")),
            TM(given.get("RadiopharmaceuticalStartTime")),
        )
    except ValueError:
        return None
    if day is None or acquired is None or injected is None:
        return None
    apart = datetime.combine(day, acquired) - datetime.combine(day, injected)
    return (apart if apart >= timedelta(0) else apart + timedelta(days=1)).total_seconds()
