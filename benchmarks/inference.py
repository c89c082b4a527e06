"""How fast a network runs over a CT, and in how much memory, beside MONAI's sliding window and nnU-Net's predictor.

    python benchmarks/inference.py [--series FOLDER] [--task slices|patches] [--rounds 3] [--threads N]
                                   [--nnunet PYTHON] [--json FILE]

Same series, same weights, same spacing and, for patches, the same window, overlap 0.25 and Gaussian weights for all;
each run is a process of its own, its peak resident memory measured; the order changes from round to round. Figures
are medians; on a busy machine the ratios count, best of all those of processor seconds with `--threads 1`. Seconds
begin with the files and end with labels on the source's slices; loading libraries and weights is a stage of its own
(`load`), for a worker does it once, and no part of `seconds`.

`slices` is the network of `ct_skeleton` that ships; `patches` a residual 3D U-Net (MONAI) of three classes at 1.5 mm
with random weights, whose labels mean nothing. Without --series, a body of ellipses is written: 160 slices of
512 x 512.

nnU-Net is measured where --nnunet names the Python of an environment that has it (its pip install alone would
replace torch):

    python3.11 -m venv /tmp/nnunet && /tmp/nnunet/bin/pip install torch==2.13.0 nnunetv2 .
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parent.parent
RUN = Path(__file__).resolve().parent / "inference_runners.py"
RUNNERS = ("osteonode", "osteonode-torch", "monai", "nnunet")
TASKS = ("slices", "patches")
STAGES = ("load", "read", "prepare", "network", "rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One runner's medians over the rounds."""

    task: str
    runner: str
    seconds: float
    to_osteonode: float
    cpu_seconds: float
    cpu_to_osteonode: float
    stages: dict[str, float]
    rss_mb: float
    rss_to_osteonode: float
    dice_to_osteonode: float


def main() -> int:
    """Run, print the tables; exit status 1 where MONAI or nnU-Net is faster than ours."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--series", type=Path, help="Folder of one CT series; else a body is written."
    )
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--nnunet", type=Path, help="Python of an environment with nnunetv2.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.nnunet is None:
        print("nnU-Net is left out: name an environment with it by --nnunet (see --help's source).")
    with tempfile.TemporaryDirectory(prefix="inference-") as folder:
        if options.series is None:
            options.series = Path(folder) / "series"
            write_body(options.series, 160)
        figures = [
            figure
            for task in options.task or TASKS
            for figure in measure(options, task, Path(folder))
        ]
    show(figures)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2))
    others = [figure for figure in figures if not figure.runner.startswith("osteonode")]
    return 1 if any(figure.to_osteonode < 1 for figure in others) else 0


def measure(options: argparse.Namespace, task: str, work: Path) -> list[Figure]:
    """Interleaved rounds, a fresh process each time."""
    runners = [name for name in RUNNERS if name != "nnunet" or options.nnunet]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in runners}
    for turn in range(options.rounds):
        first = turn % len(runners)
        for name in runners[first:] + runners[:first]:
            python = options.nnunet if name == "nnunet" else Path(sys.executable)
            runs[name].append(_run(python, [name, task, options.series, work], options.threads))
            seconds = _seconds(runs[name][-1])
            print(f"round {turn + 1}: {task:8} {name:16} {seconds:7.1f} s", flush=True)
    truth = np.load(work / f"{task}-osteonode.npy")
    ours = _medians(runs["osteonode"])
    figures = []
    for name in runners:
        seconds, cpu, rss = _medians(runs[name])
        stages = {s: statistics.median(run["stages"][s] for run in runs[name]) for s in STAGES}
        found = np.load(work / f"{task}-{name}.npy")
        figures.append(
            Figure(
                task=task,
                runner=name,
                seconds=round(seconds, 2),
                to_osteonode=round(seconds / ours[0], 2),
                cpu_seconds=round(cpu, 2),
                cpu_to_osteonode=round(cpu / ours[1], 2),
                stages={stage: round(value, 2) for stage, value in stages.items()},
                rss_mb=round(rss),
                rss_to_osteonode=round(rss / ours[2], 2),
                dice_to_osteonode=round(_dice(found, truth), 4),
            )
        )
    return figures


def show(figures: list[Figure]) -> None:
    """The table."""
    print(
        f"\n{'task':8} {'runner':16} {'seconds':>8} {'/ours':>6} {'CPU s':>7} {'/ours':>6} "
        f"{'RSS MB':>7} {'/ours':>6} {'Dice':>7}  " + " ".join(f"{stage:>7}" for stage in STAGES)
    )
    for f in figures:
        print(
            f"{f.task:8} {f.runner:16} {f.seconds:8.2f} {f.to_osteonode:6.2f} {f.cpu_seconds:7.2f} "
            f"{f.cpu_to_osteonode:6.2f} {f.rss_mb:7.0f} "
            f"{f.rss_to_osteonode:6.2f} {f.dice_to_osteonode:7.4f}  "
            + " ".join(f"{f.stages[stage]:7.2f}" for stage in STAGES)
        )
    print("Dice: of all that is not background, with osteonode's labels.")


def _medians(runs: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and resident megabytes."""
    return (
        statistics.median(_seconds(run) for run in runs),
        statistics.median(float(run["stages"]["cpu"]) for run in runs),
        statistics.median(float(run["rss_mb"]) for run in runs),
    )


def _seconds(run: dict[str, Any]) -> float:
    return sum(float(run["stages"][stage]) for stage in STAGES if stage != "load")


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    agreed = ((one == other) & (one > 0)).sum()
    return float(2 * agreed / max(1, (one > 0).sum() + (other > 0).sum()))


def _run(python: Path, arguments: list[object], threads: int) -> dict[str, Any]:
    """Seconds by stage, and the peak resident megabytes of the process."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": str(threads),
    }
    command = [str(python), str(RUN), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def write_body(folder: Path, slices: int) -> None:
    """CT of an elliptical body with a few bones: 512 x 512 pixels of 0.8 mm, slices of 2 mm."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(1).normal(0, 15, (512, 512))
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    series, study = generate_uid(), generate_uid()
    for number in range(slices):
        image = np.full((512, 512), -1000.0)
        image[np.hypot(x / 0.85, y / 0.55) < 1] = 40
        for left, top, radius in ((0, 0.3, 0.12), (-0.6, 0, 0.05), (0.6, 0, 0.05)):
            distance = np.hypot(x - left, y - top - 0.03 * np.sin(number / 9))
            image[distance < radius] = 700
            image[distance < 0.7 * radius] = 150
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = study, series, "CT"
        ds.InstanceNumber, ds.ImagePositionPatient = number + 1, [-205, -205, 2 * number]
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.8, 0.8]
        ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = 2, 1, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = 512
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelData = (image + np.roll(noise, 37 * number)).astype(np.int16).tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)


if __name__ == "__main__":
    sys.exit(main())
