"""Phantoms: bodies whose every voxel is known, and the images a scanner would make of them.

A phantom is made in two steps that know nothing of each other.

1. A *source* says which tissue lies where: `procedural` (analytic shapes, needs no data) or
   `anatomical` (label maps of real anatomy, deformed at random). Both return an `Anatomy`.
2. An *image formation* says what is measured there: `ct` (attenuation, patient table, blur,
   noise). A further modality is one further file.

`dicom` writes the result as a valid series. Everything is a function of a seed.
"""
