"""Evaluation of the skeleton pipeline on phantom studies."""

from __future__ import annotations

import resource
import time

from pipelines.ct_skeleton.phantoms import HELD_OUT_ATLAS, held_out_studies
from pipelines.ct_skeleton.pipeline import load_network, segment_skeleton
from pipelines.ct_skeleton.preprocessing import Normalisation
from pipelines.training.metrics import Figures, compare, spreads, volume_agreement
from pipelines.training.options import EvaluateOptions, EvaluateReport, write_report
from pipelines.training.phantoms.tissues import skeleton_of

NAME = "ct_skeleton"


def evaluate(options: EvaluateOptions) -> EvaluateReport:
    """Evaluate weights on phantom studies of a body that was not in training; write the report."""
    network = load_network(options.weights, options.device)
    figures: dict[str, list[Figures]] = {variant: [] for variant in Normalisation}
    seconds, slices = 0.0, 0
    study = held_out_studies(options.atlas)
    for number in range(options.phantoms):
        phantom = study(options.seed + number)
        truth = skeleton_of(phantom.tissues)
        for variant in Normalisation:
            started = time.monotonic()
            found = segment_skeleton(network, phantom.image, variant)
            seconds += time.monotonic() - started
            slices += phantom.image.shape[0]
            figures[variant].append(compare(found, truth))
    runs = options.phantoms * len(Normalisation)
    body = HELD_OUT_ATLAS.split("_")[0] if options.atlas else "procedural body"
    report = EvaluateReport(
        pipeline=NAME,
        data=f"phantom data: {body}, randomly deformed",
        studies=options.phantoms,
        figures={variant: spreads(studies) for variant, studies in figures.items()},
        agreement={variant: volume_agreement(studies) for variant, studies in figures.items()},
        seconds_per_study=seconds / max(1, runs),
        seconds_per_slice=seconds / max(1, slices),
        # ru_maxrss is in kilobytes on Linux.
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    write_report(report, options.out)
    return report
