"""Proximal femur segmentation and density in CT by a 3D V-Net."""
