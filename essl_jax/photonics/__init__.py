"""Photonic crystals: unit cells, bands, densities of states, data sets.

Physics, where each file uses those before it: `cells` makes permittivities,
`plane_waves` has Maxwell's equations, `reduced_basis` makes them cheap, `bands`
solves them, and `density` sums up the bands. Data: `generate` makes a data set
in `processes` from `settings`, `storage` writes it, and `dataset` reads it.
Learning: a config names `source`, `encoder` and `evaluation`; `regression` has
the protocol, and `regressor` runs a training. `report` draws a data set, and
`figures` draws the results.
"""
