"""Meshes of devices, and settings of CPUs."""
