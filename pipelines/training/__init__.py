"""Training of the pipelines: phantoms, data sets, losses, loop, metrics, reports."""
