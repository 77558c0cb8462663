"""Photonic crystals: unit cells, bands, densities of states, data sets."""
