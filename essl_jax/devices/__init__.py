"""Device meshes, processes, signals, and settings for CPUs."""
