"""Photonic crystals: unit cells, bands, densities of states, data sets.

Physics, each file from those before: `cells` makes permittivities,
`plane_waves` has Maxwell's equations, `reduced_basis` makes them cheap, `bands`
solves them, `density` sums the bands up. Data: `generate` makes a set, in
`processes` and by `settings`, `storage` writes it, `dataset` reads it.
Learning: `source`, `encoder` and `evaluation` are what a config names;
`regression` has the protocol, `regressor` one training. `report` draws a set,
`figures` what was learned.
"""
