"""Measures of a representation: kNN and linear probes."""
