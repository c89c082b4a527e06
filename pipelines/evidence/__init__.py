"""DICOM objects made of a result: one module per kind (IHE Evidence Creator)."""
