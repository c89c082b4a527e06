"""A result -> the DICOM instances that say it, as each destination's profile wants them: `create_evidence`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydicom import Dataset

from pipelines.evidence import capture, keyobjects, pdf, rtstruct, seg, sr
from pipelines.evidence.gate import check_iod
from pipelines.evidence.profile import GENERIC, Profile, SegmentationType
from pipelines.evidence.proof import encode, prove_written
from pipelines.evidence.readback import read_back
from pipelines.evidence.request import EvidenceObject, EvidenceRequest, check_result
from pipelines.evidence.rtproof import prove_encoded_rtstruct
from pipelines.evidence.seg import SegForm
from storage.model import SegmentResidual


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """One kind of object in one form: what is the same for two profiles is made once."""

    kind: str
    #: Of a SEG, and of a report the form of the SEG it refers to.
    seg: SegForm | None = None
    #: Of a report: with the contours of key slices.
    contours: bool = False


_Made = dict[_Form, tuple[EvidenceObject, ...]]


def create_evidence(
    request: EvidenceRequest, profiles: Mapping[str, Profile] = GENERIC
) -> tuple[EvidenceObject, ...]:
    """Make the objects of a result that any of these profiles wants, each form once; prove and check them.

    The same request makes the same bytes. When no segment has a voxel there is no SEG, no structure set and no key
    object, and the report says so.

    Parameters
    ----------
    request
        The result, and where it comes from.
    profiles
        Name -> which objects, in which form.

    Raises
    ------
    ManifestError
        `result-invalid`, when the result breaks the contract of `AnalysisResult`.
    UnprovenError
        When a SEG or a structure set, read back, is not what the label map says; or an object breaks its IOD.
    """
    check_result(request.result, request.source)
    wanted: dict[_Form, list[str]] = {}
    for name, profile in profiles.items():
        for form in _forms(profile):
            wanted.setdefault(form, []).append(name)
    made: _Made = {}
    for form, names in wanted.items():
        made[form] = tuple(
            _finish(request, form.kind, ds, tuple(names))
            for ds in _make(request, form, made, names)
        )
    return tuple(item for objects in made.values() for item in objects)


def _forms(profile: Profile) -> Iterator[_Form]:
    """What a profile wants; a SEG before the report that refers to it."""
    form = None
    if profile.segmentation is not SegmentationType.NONE:
        form = SegForm(segmentation=profile.segmentation, compression=profile.compression)
        yield _Form(kind=seg.KIND, seg=form)
    if profile.report:
        yield _Form(kind=sr.KIND, seg=form, contours=profile.contours)
    for asked, kind in (
        (profile.secondary_capture, capture.KIND),
        (profile.pdf, pdf.KIND),
        (profile.rtstruct, rtstruct.KIND),
        (profile.key_objects, keyobjects.KIND),
    ):
        if asked:
            yield _Form(kind=kind)


def _make(
    request: EvidenceRequest, form: _Form, made: _Made, profiles: Sequence[str]
) -> tuple[Dataset, ...]:
    """The instances of one form; none where there is nothing that it could show."""
    ds: Dataset | None
    match form.kind:
        case seg.KIND:
            ds = seg.create_seg(request, form.seg or seg.BINARY)
        case sr.KIND:
            ds = _make_report(_following(request, profiles), form, made)
        case capture.KIND:
            return capture.create_captures(request)
        case pdf.KIND:
            ds = pdf.create_pdf(request)
        case rtstruct.KIND:
            ds = rtstruct.create_rtstruct(request)
        case _:
            ds = keyobjects.create_key_objects(request)
    return () if ds is None else (ds,)


def _following(request: EvidenceRequest, profiles: Sequence[str]) -> EvidenceRequest:
    """The request, with those reports of the replaced evidence that destinations of these profiles got."""
    reports = [one for one in request.replaced if one.kind == sr.KIND]
    theirs = [one for one in reports if set(one.profiles) & set(profiles)]
    return replace(request, replaced=tuple(theirs or reports))


def _make_report(request: EvidenceRequest, form: _Form, made: _Made) -> Dataset:
    if form.seg is None:
        return sr.create_sr(request, None, contours=form.contours)
    segmentation = made[_Form(kind=seg.KIND, seg=form.seg)]
    return sr.create_sr(
        request,
        segmentation[0].ds if segmentation else None,
        contours=form.contours,
        seg_kind=form.seg.kind_key,
    )


def _finish(
    request: EvidenceRequest, kind: str, ds: Dataset, profiles: tuple[str, ...]
) -> EvidenceObject:
    """The file of an instance: proven where it has geometry, checked always."""
    encoded = encode(ds)
    if kind == seg.KIND:
        # Its file has them: compressed ones are as large as that.
        del ds.PixelData
    written = read_back(encoded)
    residuals: tuple[SegmentResidual, ...] = ()
    if kind == seg.KIND:
        residuals = prove_written(written, request.result, request.source)
    elif kind == rtstruct.KIND:
        residuals = prove_encoded_rtstruct(encoded, request.result, request.source)
    check_iod(written.ds)
    return EvidenceObject(kind=kind, ds=ds, encoded=encoded, profiles=profiles, residuals=residuals)
