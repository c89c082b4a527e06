"""A hospital's own labelled studies: DICOM series with DICOM SEG, or NIfTI pairs."""
