"""Convolutions, matrix products and attention, by platform."""
