"""Bone metastases and benign bone lesions in SPECT/CT, SPECT or CT."""
