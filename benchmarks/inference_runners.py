"""One run of one runner, in a process of its own: what `inference.py` starts.

    python benchmarks/inference_runners.py RUNNER TASK SERIES FOLDER

Writes the labels to FOLDER, and as its last line of output the peak resident megabytes, the seconds of the processor
(`cpu`, all but `load`) and the seconds of each stage: `load` libraries and weights; `read` the files; `prepare` what
comes before (body and table; resampling where it is a step of its own); `network` the network's calls; `rest` windows,
averaging, resampling, labels.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "pipelines" / "ct_skeleton" / "weights.safetensors"
#: What both networks get: HU, clipped, to -1 ... 1.
LOWEST, HIGHEST = -200.0, 1200.0
PATCH, SPACING, OVERLAP = (96, 96, 96), (1.5, 1.5, 1.5), 0.25
PIXEL, STRIDE = 1.0, 16

Stages = dict[str, float]


@contextmanager
def timed(stages: Stages, stage: str) -> Iterator[None]:
    """Add the seconds of a block to a stage."""
    began = time.perf_counter()
    yield
    stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - began
    if stage == "load":
        stages["cpu"] = -time.process_time()


def network_of(task: str) -> Any:
    """The network all runners share, in eval mode on the CPU."""
    import torch
    from monai.networks.nets.unet import UNet

    from pipelines.ct_skeleton.pipeline import load_network

    if task == "slices":
        return load_network(WEIGHTS, "cpu")
    torch.manual_seed(1)
    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=2,
        norm="instance",
    ).eval()


def normalise(image: np.ndarray) -> np.ndarray:
    """HU to -1 ... 1."""
    clipped = np.clip(image.astype(np.float32), LOWEST, HIGHEST)
    return (2 * (clipped - LOWEST) / (HIGHEST - LOWEST) - 1).astype(np.float32)


def clocked(call: Callable[[Any], Any], stages: Stages) -> Callable[[Any], Any]:
    """The same function, its seconds added to the stage `network`."""

    def timed_call(image: Any) -> Any:
        with timed(stages, "network"):
            return call(image)

    return timed_call


@contextmanager
def rest_of(stages: Stages) -> Iterator[None]:
    """Add the seconds of a block to the stage `rest`, without the network's."""
    before = stages.get("network", 0.0)
    began = time.perf_counter()
    yield
    spent = time.perf_counter() - began
    stages["rest"] = stages.get("rest", 0.0) + spent - (stages.get("network", 0.0) - before)


def osteonode(task: str, series: Path, stages: Stages, *, compiled: bool) -> np.ndarray:
    """Ours, as `ct_skeleton` does it: without the table, in the body's box."""
    with timed(stages, "load"):
        from pipelines import inference
        from pipelines.ct_skeleton.stretcher import body_mask, remove_stretcher
        from pipelines.series import read_series

        network = network_of(task)
        probes = [(1, 1, 64, 96), (2, 1, 96, 64)] if task == "slices" else [(1, 1, 32, 32, 32)]
        engine = inference.engine_of(network)
        if compiled:
            engine = inference.compile_network(network, "cpu", probes)
        engine = replace(engine, infer=clocked(engine.infer, stages))
    with timed(stages, "read"):
        volume = read_series(sorted(series.glob("*.dcm"))).volume
    with timed(stages, "prepare"):
        body = body_mask(volume)
        box = inference.bounding_box(body, (0, 8, 8))
        alone = remove_stretcher(volume, body)
    with rest_of(stages):
        if task == "slices":
            by_slice = inference.SliceInference(pixel_spacing=PIXEL, stride=STRIDE)
            found = inference.segment_slices(engine, alone, normalise, box, by_slice)
        else:
            by_patch = inference.PatchInference(spacing=SPACING, patch=PATCH, overlap=OVERLAP)
            found = inference.segment_patches(engine, alone, normalise, box, by_patch)
    return found.array


def monai(task: str, series: Path, stages: Stages) -> np.ndarray:
    """MONAI's own transforms and inferers, as its tutorials put them together."""
    with timed(stages, "load"):
        import torch
        from monai.inferers import SliceInferer, SlidingWindowInferer
        from monai.transforms import LoadImage, ResampleToMatch, ScaleIntensityRange, Spacing

        network = network_of(task)
        # MONAI's axes are (column, row, slice), the network's the other way round.
        axes = (0, 1, 3, 2) if task == "slices" else (0, 1, 4, 3, 2)
        call = clocked(lambda image: network(image.permute(axes)).permute(axes), stages)
    with timed(stages, "read"):
        source = LoadImage(reader="PydicomReader", ensure_channel_first=True)(series)
    with timed(stages, "prepare"):
        between = float(np.linalg.norm(source.affine[:3, 2]))
        pixdim = (PIXEL, PIXEL, between) if task == "slices" else SPACING
        scaled = ScaleIntensityRange(LOWEST, HIGHEST, -1, 1, clip=True)(source)
        image = Spacing(pixdim, mode="bilinear", padding_mode="border")(scaled)[None]
    with rest_of(stages), torch.inference_mode():
        how = {"overlap": OVERLAP, "mode": "gaussian", "cval": -1.0}
        if task == "slices":
            size = [-(-length // STRIDE) * STRIDE for length in image.shape[2:4]]
            logits = SliceInferer(2, size, sw_batch_size=8, **how)(image, call)
        else:
            logits = SlidingWindowInferer(PATCH, sw_batch_size=2, **how)(image, call)
        back = ResampleToMatch(mode="bilinear", padding_mode="border")(logits[0], source)
        labels = back[0] >= 0 if task == "slices" else back.argmax(0)
        found: np.ndarray = labels.numpy().astype(np.uint8).transpose(2, 1, 0)
        # Ours lie by increasing position.
        return found[::-1] if source.affine[2, 2] < 0 else found


def nnunet(task: str, series: Path, stages: Stages) -> np.ndarray:
    """The three steps of nnU-Net's `predict_single_npy_array`, without mirroring."""
    with timed(stages, "load"):
        import SimpleITK as sitk
        import torch
        from nnunetv2.inference.data_iterators import PreprocessAdapterFromNpy
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape,
        )
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        network = network_of(task)
    with timed(stages, "read"):
        # It reads no DICOM; SimpleITK, which it reads NIfTI with, does.
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
        image = sitk.ReadImage(names, sitk.sitkFloat32)
        array, spacing = sitk.GetArrayFromImage(image)[None], list(image.GetSpacing())[::-1]
    with timed(stages, "prepare"):
        planes = [round(n * s / PIXEL) for n, s in zip(array.shape[2:], spacing[1:], strict=True)]
        patch = [-(-n // STRIDE) * STRIDE for n in planes] if task == "slices" else list(PATCH)
        plans = PlansManager(_plans(task, patch))
        labels = {"background": 0} | {str(n): n for n in range(1, 2 if task == "slices" else 3)}
        dataset = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
        configuration = plans.get_configuration(task)
        adapter = PreprocessAdapterFromNpy(
            [array], [None], [{"spacing": spacing}], [None], plans, dataset, configuration
        )
        ready = next(adapter)
    with rest_of(stages):
        predictor = nnUNetPredictor(
            tile_step_size=1 - OVERLAP,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        module = _with_background(network, stages)
        predictor.manual_initialization(
            module, plans, configuration, [module.state_dict()], dataset, "nnUNetTrainer", None
        )
        logits = predictor.predict_logits_from_preprocessed_data(ready["data"])
        found: np.ndarray = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans, configuration, predictor.label_manager, ready["data_properties"],
            num_threads_torch=torch.get_num_threads(),
        )  # fmt: skip
    return found


def _with_background(network: Any, stages: Stages) -> Any:
    """A module of one output per label: nnU-Net has a logit for the background, too."""
    import torch

    class WithBackground(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            with timed(stages, "network"):
                logits: torch.Tensor = self.network(image)
            if logits.shape[1] > 1:
                return logits
            return torch.cat([torch.zeros_like(logits), logits], 1)

    return WithBackground().eval()


def _plans(task: str, patch: list[int]) -> dict[str, Any]:
    """What nnU-Net's planner writes, as far as inference reads it; resampling by its defaults."""
    resampling = {}
    for kind, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{kind}_kwargs"] = {
            "is_seg": kind == "seg", "order": order, "order_z": 0, "force_separate_z": None,
        }  # fmt: skip
    return {
        "dataset_name": "benchmark",
        "plans_name": "benchmark",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {
                "percentile_00_5": LOWEST,
                "percentile_99_5": HIGHEST,
                "mean": (LOWEST + HIGHEST) / 2,
                "std": (HIGHEST - LOWEST) / 2,
            }
        },
        "configurations": {
            task: {
                "data_identifier": "benchmark",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": patch,
                "spacing": [PIXEL, PIXEL] if task == "slices" else list(SPACING),
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "architecture": {},
                **resampling,
            }
        },
    }


def main() -> None:
    """Run one, report."""
    runner, task, series, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    runners: dict[str, Callable[[str, Path, Stages], np.ndarray]] = {
        "osteonode": partial(osteonode, compiled=True),
        "osteonode-torch": partial(osteonode, compiled=False),
        "monai": monai,
        "nnunet": nnunet,
    }
    stages: Stages = {}
    labels = runners[runner](task, series, stages)
    stages["cpu"] += time.process_time()
    # ru_maxrss is in kilobytes on Linux.
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.save(folder / f"{task}-{runner}.npy", labels.astype(np.uint8))
    print(json.dumps({"stages": stages, "rss_mb": rss}))


if __name__ == "__main__":
    main()
