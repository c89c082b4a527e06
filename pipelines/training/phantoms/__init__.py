"""Phantoms: bodies whose every voxel is known, and the images a scanner would make of them.

A phantom is made in two steps that know nothing of each other.

1. A *source* says which tissue lies where in a `patient`: `procedural` (analytic shapes, needs no
   data) or `anatomical` (label maps of real anatomy: `labels` reads one, `atlas` makes it ready,
   `posing` makes a patient of it, by a `deformation`). Both are a `tissues.Body`: something that can
   be cut anywhere, and knows nothing of how it is imaged.
2. An *image formation* says what is measured there: `acquisition` puts the body into a scanner
   (table, artefacts, kernel), `ct` makes slices of it (attenuation, blur, noise). A further modality
   is a further file that cuts a `Body`.

`render` and `procedural` draw all that is needed and do both steps.

`dicom` writes the result as a valid series. Everything is a function of a seed.
"""
