"""The DICOM Conformance Statement and the IHE Integration Statement, from the configuration and the code in force.

Facts are read (`network`, `evidence`, `terminology`, `ihe`) into frozen values (`statement`), which `markdown` writes.
"""
