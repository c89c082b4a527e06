"""Vertebrae and tumours of the spine in contrast-enhanced T1-weighted MR by a patch extraction network."""
