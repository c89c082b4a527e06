"""Phantom and real CT side by side: pictures at the same windows, histograms, noise spectra.

    python benchmarks/phantom_realism.py --real shared/data/ct-abdomen --atlas shared/data/atlas --out docs/phantoms.png

The real study is TCGA-09-2043 of TCIA's TCGA-OV (CC BY 3.0). The phantom is another body, that of
the first atlas, imaged with the same slice thickness, pixel spacing, table design, sex and age.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import matplotlib as mpl
import numpy as np
import pydicom
from numpy.typing import NDArray
from scipy import ndimage

mpl.use("Agg")
from matplotlib import pyplot as plt

from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.patient import Arms, HipPose, Patient, Phase, Sex, draw_patient
from pipelines.training.phantoms.physics import Beam
from pipelines.training.phantoms.render import ImagedRegion, Subject, anatomical_phantom
from pipelines.training.phantoms.scanner import Scanner
from pipelines.training.phantoms.tables import foam_cradle

Floats = NDArray[np.float32]

#: Slices of the real study, and mm above the hip joints of the phantom, that show the same.
PAIRS = ((148, -28.0), (135, 2.0), (120, 62.0), (65, 205.0), (6, 330.0))
WINDOWS = ((400.0, 1800.0), (40.0, 400.0))  # centre, width
_PATCH = 32


def main() -> None:
    """Render, compare, draw, print."""
    options = _arguments()
    real = _read(options.real)
    atlas = load_atlas(options.atlas / "bp3d_body_1p5mm.nii.gz")
    head = np.mean([femur.head for femur in atlas.femora.values()], axis=0)
    phantom = []
    for number, (_, height) in enumerate(PAIRS):
        region = ImagedRegion(
            centre=(float(head[0]), float(head[1]) - 8, float(head[2]) + height),
            shape=(3, 512, 512),
            pixel_spacing=float(real.spacing[1]),
            slice_spacing=3.0,
        )
        made = anatomical_phantom(atlas, region, seed=options.seed, subject=_subject(number))
        phantom.append(made.image.array[1:])
    slices = [real.array[index : index + 2] for index, _ in PAIRS]
    _draw(options.out, slices, phantom, float(real.spacing[1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, required=True, help="folder of the real CT series")
    parser.add_argument("--atlas", type=Path, required=True, help="folder of the label maps")
    parser.add_argument("--out", type=Path, default=Path("docs/phantoms.png"))
    parser.add_argument("--seed", type=int, default=4)
    return parser.parse_args()


def _read(folder: Path) -> hd.Volume:
    datasets = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    volume = hd.get_volume_from_series(datasets).to_patient_orientation("FPL")
    return volume.with_array(volume.array.astype(np.int16))


def _subject(number: int) -> Subject:
    rng = np.random.default_rng(number)
    return Subject(patient=_patient(), scanner=_scanner(rng), strength=0.6)


def _patient() -> Patient:
    drawn = draw_patient(np.random.default_rng(2), contrast=True)
    return replace(
        drawn, sex=Sex.FEMALE, age=69, height_m=1.6, fat_mm=42.0, muscle=0.95, muscle_fat=0.1,
        trabecular_mg=125.0, cortical_mg=1090.0, cortex=0.8, scoliosis_mm=3.0,
        hips=(HipPose(), HipPose()), arms=Arms.AWAY, phase=Phase.VENOUS, oral_contrast=False,
        lesions=(), fractures=(), implants=(),
    )  # fmt: skip


def _scanner(rng: np.random.Generator) -> Scanner:
    beam = Beam(hardening=0.5, metal="titanium", modulation=0.8, electronic=0.03)
    return Scanner(
        table=foam_cradle(rng), blur_mm=0.8, sharpening=0.2, noise_hu=20.0, beam=beam,
        circle=0.97, padding=-2048,
    )  # fmt: skip


def noise_spectrum(pair: NDArray[np.int16], pixel: float) -> tuple[Floats, float]:
    """Return the radial noise power spectrum of two neighbouring slices, and their noise in HU.

    Half the power of their difference, in the flattest soft tissue: what both show cancels out.
    """
    found = []
    both = pair.astype(np.float64)
    for row in range(0, pair.shape[1] - _PATCH, _PATCH // 4):
        for column in range(0, pair.shape[2] - _PATCH, _PATCH // 4):
            patch = both[:, row : row + _PATCH, column : column + _PATCH]
            if patch.min() > -200 and patch.max() < 300:
                flat = (patch[1] - patch[0]) / np.sqrt(2)
                found.append((float(patch.std()), flat - ndimage.gaussian_filter(flat, 10)))
    found.sort(key=lambda one: one[0])
    kept = [flat for _, flat in found[: max(1, len(found) // 4)]]
    if not kept:
        return np.zeros(_PATCH // 2, np.float32), 0.0
    window = np.hanning(_PATCH)[:, None] * np.hanning(_PATCH)[None, :]
    power = np.mean([np.abs(np.fft.fft2(patch * window)) ** 2 for patch in kept], axis=0)
    power *= pixel**2 / (window**2).sum()
    frequency = np.fft.fftfreq(_PATCH) * _PATCH
    radius = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    radial = ndimage.mean(power, radius, np.arange(_PATCH // 2))
    return np.asarray(radial, np.float32), float(np.mean([patch.std() for patch in kept]))


def _draw(
    out: Path, real: Sequence[NDArray[np.int16]], phantom: Sequence[NDArray[np.int16]], pixel: float
) -> None:
    columns = len(real)
    figure, axes = plt.subplots(5, columns, figsize=(2.6 * columns, 11.6))
    for column, pair in enumerate(zip(real, phantom, strict=True)):
        for row, (centre, width) in enumerate(WINDOWS):
            for which, (image, _) in enumerate(pair):
                axis = axes[2 * row + which, column]
                low, high = centre - width / 2, centre + width / 2
                axis.imshow(image[60:470, 20:492], cmap="gray", vmin=low, vmax=high)
                axis.set_xticks([])
                axis.set_yticks([])
                if column == 0:
                    axis.set_ylabel(f"{('real', 'phantom')[which]}, W {width:.0f} L {centre:.0f}")
    _histograms(axes[4, :2], real, phantom)
    _spectra(axes[4, 2:4], real, phantom, pixel)
    axes[4, 4].axis("off")
    axes[4, 4].text(
        0, 0.1, "Real: TCGA-09-2043, TCIA\nTCGA-OV collection,\nCC BY 3.0.\n\nPhantom: from BodyParts3D,\n"
        "(c) The Database Center\nfor Life Science,\nCC BY-SA 2.1 JP.", fontsize=8,
    )  # fmt: skip
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=64)
    _shrink(out)


def _shrink(out: Path) -> None:
    from PIL import Image

    Image.open(out).convert("L").quantize(64).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def _histograms(
    axes: Sequence[plt.Axes],
    real: Sequence[NDArray[np.int16]],
    phantom: Sequence[NDArray[np.int16]],
) -> None:
    for axis, (low, high), step in zip(axes, ((-200, 250), (150, 1500)), (5, 25), strict=True):
        bins = np.arange(low, high + step, step)
        for name, slices in (("real", real), ("phantom", phantom)):
            values = np.concatenate([image.ravel() for image in slices])
            counts, _ = np.histogram(values, bins)
            inside = np.count_nonzero((values > -200) & (values < 1600))
            axis.plot(bins[:-1], counts / inside / step, label=name, lw=1)
            if low < 0:
                fat = bins[:-1][(bins[:-1] < -50)][counts[bins[:-1] < -50].argmax()]
                lean = bins[:-1][(bins[:-1] > 0)][counts[bins[:-1] > 0].argmax()]
                dense = values[(values > 200) & (values < 1600)]
                print(f"{name}: fat peak {fat} HU, soft tissue peak {lean} HU, above 200 HU "
                      f"{dense.size / inside:.3f} of the body, median {np.median(dense):.0f} HU, "
                      f"95th percentile {np.percentile(dense, 95):.0f} HU")  # fmt: skip
        axis.set_xlabel("HU", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_yticks([])
    axes[1].set_yscale("log")
    axes[0].legend(fontsize=7)


def _spectra(
    axes: Sequence[plt.Axes],
    real: Sequence[NDArray[np.int16]],
    phantom: Sequence[NDArray[np.int16]],
    pixel: float,
) -> None:
    frequency = np.arange(_PATCH // 2) / (_PATCH * pixel)
    for name, slices in (("real", real), ("phantom", phantom)):
        found = [noise_spectrum(image, pixel) for image in slices]
        spectra = [spectrum for spectrum, noise in found if noise > 0]
        mean = np.mean(spectra, axis=0)
        axes[0].plot(frequency, mean, label=name, lw=1)
        axes[1].plot(frequency, mean / mean.sum(), lw=1)
        peak = frequency[int(mean.argmax())]
        centroid = float((frequency * mean).sum() / mean.sum())
        levels = ", ".join(f"{noise:.1f}" for _, noise in found)
        print(
            f"{name}: noise {levels} HU; spectrum's peak {peak:.2f}, centroid {centroid:.2f} per mm"
        )
    for axis, title in zip(axes, ("noise power, HU2 mm2", "the same, normalised"), strict=True):
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("1/mm", fontsize=8)
        axis.tick_params(labelsize=7)


if __name__ == "__main__":
    main()
