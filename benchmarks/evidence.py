"""How fast and how lean a SEG is made, beside plain highdicom and dcmqi, of the same label map.

    python benchmarks/evidence.py [--segments 1 20 104] [--rounds 1] [--json FILE]

300 slices of 512 x 512. Every run is a process of its own, libraries warm: seconds are CPU seconds (one thread; on a
busy machine the clock says more of the neighbours), `peak` is how far the resident set grows over what it was before
the label map was loaded, as a share of label map plus file. dcmqi is a program: its seconds hold the reading of headers
and label map too, and are compared with ours plus the same reading; its peak is all of its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import UID, AlgorithmIdentificationSequence, Volume
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.sr.codedict import codes

from pipelines.evidence.gate import check_iod
from pipelines.evidence.profile import Compression, SegmentationType
from pipelines.evidence.proof import encode, prove_written
from pipelines.evidence.readback import read_back
from pipelines.evidence.request import EvidenceRequest, Installation
from pipelines.evidence.seg import SegForm, create_seg
from pipelines.manifest import CodeSpec, InputSpec, Manifest, SegmentSpec
from pipelines.result import AnalysisResult, Segment, SourceSeries
from pipelines.training.phantoms.dicom import ct_series

SHAPE = (300, 512, 512)
#: Indices (slice, row, column) -> LPS mm.
AFFINE = np.array([[0, 0, 0.8, -200], [0, 0.8, 0, -200], [1.5, 0, 0, 0], [0, 0, 0, 1]], float)
ITKIMAGE2SEGIMAGE = Path(sys.executable).with_name("itkimage2segimage")
ANATOMY = CodeSpec(value="91723000", scheme="SCT", meaning="Anatomical Structure")
BONE = CodeSpec(value="272673000", scheme="SCT", meaning="Bone")
NATIVE = "binary/native"
#: Of each number of segments; of the most, all forms.
RUNS = (("highdicom", NATIVE), ("osteonode", NATIVE), ("dcmqi", NATIVE))
FORM_RUNS = (
    ("highdicom", "labelmap/native"),
    ("osteonode", "labelmap/native"),
    ("highdicom", "labelmap/jpeg-ls"),
    ("osteonode", "labelmap/jpeg-ls"),
    ("highdicom", "labelmap/rle"),
    ("osteonode", "labelmap/rle"),
    ("osteonode", "binary/rle"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One writer, one form, one number of segments: medians over the rounds."""

    segments: int
    writer: str
    form: str
    #: CPU seconds to make and write the file (dcmqi: to read its input too).
    seconds: float
    #: The same by the clock.
    wall_s: float
    #: CPU seconds to read headers and label map.
    read_s: float
    #: CPU seconds of our gate and geometry proof.
    proof_s: float
    size_mb: float
    peak_mb: float
    #: Peak / (label map + file).
    peak_share: float


def main() -> int:
    """Run, print the table; exit status 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--segments", type=int, nargs="+", default=[1, 20, 104])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        writer, form, count, folder = options.run
        print(json.dumps(asdict(run(writer, form, int(count), Path(folder)))))
        return 0
    if not ITKIMAGE2SEGIMAGE.exists():
        sys.exit("not installed: itkimage2segimage (pip install dcmqi)")
    figures = []
    for count in options.segments:
        with tempfile.TemporaryDirectory(prefix="evidence-") as folder:
            prepare(Path(folder), count)
            runs = (*RUNS, *FORM_RUNS) if count == max(options.segments) else RUNS
            figures += [median(one(folder, count, run), options.rounds) for run in runs]
    show(figures)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2))
    return 1 if missed(figures) else 0


def one(folder: str, count: int, run: tuple[str, str]) -> Callable[[], Figure]:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--run", *run, str(count), folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def measure() -> Figure:
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return Figure(**json.loads(done.stdout.splitlines()[-1]))

    return measure


def median(measure: Callable[[], Figure], rounds: int) -> Figure:
    """The round in the middle, by seconds."""
    figures = sorted((measure() for _ in range(rounds)), key=lambda figure: figure.seconds)
    return figures[statistics.median_low(range(rounds))]


# -- what is written ------------------------------------------------------------------------------


def label_map(count: int) -> NDArray[np.uint8]:
    """Smooth bodies of the size of bones and organs, in the middle of the image; later ones lie over earlier ones."""
    rng = np.random.default_rng(3)
    labels = np.zeros(SHAPE, np.uint8)
    size = np.array(SHAPE)
    for number in range(1, count + 1):
        centre = rng.uniform([0.05, 0.25, 0.2], [0.95, 0.75, 0.8]) * size
        radii = rng.uniform([6, 10, 10], [40, 60, 60])
        if count == 1:
            centre, radii = size / 2, np.array([120.0, 150.0, 190.0])
        low = np.maximum(0, centre - 1.2 * radii).astype(int)
        high = np.minimum(size, centre + 1.2 * radii + 1).astype(int)
        z, y, x = (
            (np.arange(*ends) - middle) / radius
            for *ends, middle, radius in zip(low, high, centre, radii, strict=True)
        )
        z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
        # Folds, as no organ is an ellipsoid.
        folds = 0.15 * np.sin(4 * x + rng.uniform(0, 6)) * np.cos(3 * y) + 0.1 * np.sin(5 * z + x)
        inside = z**2 + y**2 + x**2 + folds < 1
        labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]][inside] = number
    return labels


def prepare(folder: Path, count: int) -> None:
    """Source series, label map (.npy for Python, .nrrd for dcmqi) and dcmqi's metadata."""
    small = Volume(
        array=np.zeros((SHAPE[0], 4, 4), np.int16), affine=AFFINE, coordinate_system="PATIENT"
    )
    (folder / "series").mkdir()
    for index, ds in enumerate(ct_series(small, seed=1)):
        ds.Rows, ds.Columns = SHAPE[1:]
        ds.PixelData = bytes(2 * SHAPE[1] * SHAPE[2])
        ds.save_as(folder / "series" / f"{index:03d}.dcm", enforce_file_format=True)
    labels = label_map(count)
    np.save(folder / "labels.npy", labels)
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((0.8, 0.8, 1.5))
    image.SetOrigin((-200, -200, 0))
    sitk.WriteImage(image, folder / "labels.nrrd", useCompression=False)
    code = {name: _dcmqi_code(spec) for name, spec in (("category", ANATOMY), ("type", BONE))}
    segments = [
        {
            "labelID": spec.number,
            "SegmentLabel": spec.label,
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "benchmark",
            "SegmentedPropertyCategoryCodeSequence": code["category"],
            "SegmentedPropertyTypeCodeSequence": code["type"],
            "recommendedDisplayRGBValue": list(spec.rgb),
        }
        for spec in specs(count)
    ]
    content = {"ContentCreatorName": "Benchmark", "SeriesDescription": "SEG", "SeriesNumber": "9"}
    content |= {"InstanceNumber": "1", "ContentLabel": "SEG", "ContentDescription": "Benchmark"}
    (folder / "dcmqi.json").write_text(json.dumps(content | {"segmentAttributes": [segments]}))


def _dcmqi_code(code: CodeSpec) -> dict[str, str]:
    return {
        "CodeValue": code.value,
        "CodingSchemeDesignator": code.scheme,
        "CodeMeaning": code.meaning,
    }


def specs(count: int) -> list[SegmentSpec]:
    """Segments that a manifest would declare."""
    return [
        SegmentSpec(
            number=number, label=f"Bone {number}", category=ANATOMY, type=BONE, rgb=(230, 200, 60)
        )
        for number in range(1, count + 1)
    ]


# -- one run --------------------------------------------------------------------------------------


def run(writer: str, form: str, count: int, folder: Path) -> Figure:
    """Measure in this process."""
    out = folder / "out.dcm"
    if writer == "dcmqi":
        return run_dcmqi(count, folder, out)
    make = {"highdicom": make_plainly, "osteonode": make_ours}[writer]
    # Libraries load their tables at first use.
    make(load(folder, count, np.s_[140:145]), form, folder / "warm.dcm")
    # proc(5): forget the highest resident set so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    started = time.process_time()
    request = load(folder, count)
    loaded, wall = time.process_time(), time.perf_counter()
    proof_s = make(request, form, out)
    seconds = time.process_time() - loaded - proof_s
    size, peak = out.stat().st_size, _status("VmHWM") - before
    return Figure(
        segments=count,
        writer=writer,
        form=form,
        seconds=seconds,
        wall_s=time.perf_counter() - wall,
        read_s=loaded - started,
        proof_s=proof_s,
        size_mb=size / 1e6,
        peak_mb=peak / 1e6,
        peak_share=peak / (np.prod(SHAPE) + size),
    )


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def load(folder: Path, count: int, part: slice = np.s_[:]) -> EvidenceRequest:
    """Headers and label map of a part of the slices; the CT itself is not held."""
    # A mapped file would count as memory.
    labels = np.load(folder / "labels.npy", mmap_mode=None if part == np.s_[:] else "r")[part]
    files = sorted((folder / "series").glob("*.dcm"))[part]
    datasets = tuple(dcmread(file, stop_before_pixels=True) for file in files)
    place = {
        "affine": AFFINE + np.eye(4)[2][:, None] * np.eye(4)[3] * 1.5 * (part.start or 0),
        "coordinate_system": "PATIENT",
        "frame_of_reference_uid": datasets[0].FrameOfReferenceUID,
    }
    segments = tuple(
        Segment(number=spec.number, spec=spec, label=spec.label) for spec in specs(count)
    )
    return EvidenceRequest(
        workitem_uid="2.25.1",
        manifest=Manifest(
            name="benchmark",
            version="1.0.0",
            title="Benchmark",
            procedure=CodeSpec(value="77477000", scheme="SCT", meaning="Computed tomography"),
            inputs={"ct": InputSpec(modality=("CT",))},
            segments=tuple(segment.spec for segment in segments),
            parameters={},
        ),
        source=SourceSeries(
            volume=Volume(array=np.broadcast_to(np.int16(0), labels.shape), **place),
            datasets=datasets,
        ),
        result=AnalysisResult(
            role="ct", label_map=Volume(array=labels, **place), segments=segments
        ),
        installation=Installation(
            institution="", serial_number="1", uid_root="2.25", software_version="0"
        ),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        parameters={},
    )


def make_ours(request: EvidenceRequest, form: str, out: Path) -> float:
    """Our SEG, as it leaves the node; CPU seconds of gate and proof are returned."""
    segmentation, compression = form.split("/")
    ds = create_seg(
        request,
        SegForm(segmentation=SegmentationType(segmentation), compression=Compression(compression)),
    )
    if ds is None:
        return 0.0
    encoded = encode(ds)
    del ds
    out.write_bytes(encoded)
    started = time.process_time()
    written = read_back(encoded)
    check_iod(written.ds)
    prove_written(written, request.result, request.source)
    return time.process_time() - started


def make_plainly(request: EvidenceRequest, form: str, out: Path) -> float:
    """The SEG of highdicom's user guide."""
    segmentation, compression = form.split("/")
    algorithm = AlgorithmIdentificationSequence(
        name="benchmark", family=codes.cid7162.ArtificialIntelligence, version="1"
    )
    ds = Segmentation(
        source_images=request.source.datasets,
        pixel_array=request.result.label_map.array,
        segmentation_type=segmentation.upper(),
        segment_descriptions=[
            SegmentDescription(
                segment_number=segment.number,
                segment_label=segment.label,
                segmented_property_category=ANATOMY.to_code(),
                segmented_property_type=BONE.to_code(),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for segment in request.result.segments
        ],
        series_instance_uid=UID(),
        series_number=9,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="Benchmark",
        manufacturer_model_name="Benchmark",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=Compression(compression).transfer_syntax_uid,
    )
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    out.write_bytes(buffer.getbuffer())
    return 0.0


def run_dcmqi(count: int, folder: Path, out: Path) -> Figure:
    """dcmqi's program, all of it."""
    command: list[Any] = [ITKIMAGE2SEGIMAGE, "--skip", "1"]
    command += ["--inputImageList", folder / "labels.nrrd", "--outputDICOM", out]
    command += ["--inputDICOMDirectory", folder / "series"]
    command += ["--inputMetadata", folder / "dcmqi.json"]
    wall = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    used, size = resource.getrusage(resource.RUSAGE_CHILDREN), out.stat().st_size
    return Figure(
        segments=count,
        writer="dcmqi",
        form=NATIVE,
        seconds=used.ru_utime + used.ru_stime,
        wall_s=time.perf_counter() - wall,
        read_s=0.0,
        proof_s=0.0,
        size_mb=size / 1e6,
        peak_mb=used.ru_maxrss * 1024 / 1e6,
        peak_share=used.ru_maxrss * 1024 / (np.prod(SHAPE) + size),
    )


# -- the table ------------------------------------------------------------------------------------


def _of(figures: Iterable[Figure], writer: str, form: str, segments: int) -> Figure | None:
    wanted = (writer, form, segments)
    return next((f for f in figures if (f.writer, f.form, f.segments) == wanted), None)


def show(figures: list[Figure]) -> None:
    """A row per run; ratios are others' seconds over ours."""
    print("| segments | form | writer | s | proof s | x ours | MB | % of BINARY | peak |")
    print("|---|---|---|---|---|---|---|---|---|")
    for f in figures:
        ours = _of(figures, "osteonode", f.form, f.segments) or f
        native = _of(figures, "osteonode", NATIVE, f.segments) or f
        own = ours.seconds + (ours.read_s if f.writer == "dcmqi" else 0)
        cells = [
            str(f.segments),
            f.form.replace("/", ", ").upper(),
            f.writer,
            f"{f.seconds:.2f}",
            f"{f.proof_s:.2f}" if f.writer == "osteonode" else "",
            f"{f.seconds / own:.1f}" if f is not ours else "",
            f"{f.size_mb:.1f}",
            f"{100 * f.size_mb / native.size_mb:.1f}",
            f"{f.peak_share:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    for sentence in missed(figures):
        print(f"missed: {sentence}")


def missed(figures: list[Figure]) -> list[str]:
    """Targets that are not met: speed against both, size of compressed label maps, peak memory."""
    found = []
    for f in figures:
        ours = _of(figures, "osteonode", f.form, f.segments)
        native = _of(figures, "osteonode", NATIVE, f.segments)
        name = f"{f.segments} segments, {f.form}"
        if f.writer == "highdicom" and ours and ours.seconds > f.seconds:
            found.append(f"{name}: {ours.seconds / f.seconds:.2f} of plain highdicom's time")
        if f.writer == "dcmqi" and ours and 2 * (ours.seconds + ours.read_s) > f.seconds:
            found.append(f"{name}: only {f.seconds / (ours.seconds + ours.read_s):.2f} x dcmqi")
        if f.writer != "osteonode":
            continue
        compressed = f.form in ("labelmap/rle", "labelmap/jpeg-ls")
        if compressed and f.segments >= 104 and native and f.size_mb > 0.02 * native.size_mb:
            found.append(f"{name}: {f.size_mb / native.size_mb:.1%} of native BINARY")
        if f.peak_share > 1.5:
            found.append(f"{name}: peak {f.peak_share:.2f} x (label map + file)")
    return found


if __name__ == "__main__":
    sys.exit(main())
