"""Skeleton segmentation in CT by a slice-wise 2D U-Net."""
