"""Convolutions and products, by platform."""
