"""Solves cells with MPB; run by photonics_speed.py under MPB's own Python.

  /usr/bin/python3 experiments/profiling/photonics_mpb.py INPUT.npz OUTPUT.npz

INPUT has `permittivity` [N, 32, 32], the values at MPB's grid points, and
`k_points` [K, 2]. OUTPUT gets `epsilon` on MPB's grid, `frequencies` [N, K,
10], `group_velocities` [N, K, 10, 2] and the `seconds` of solving. Nothing of
essl_jax is imported, since that Python may lack its requirements. The optional
third argument is the id of the parent process; the program ends with it.
"""

import os
import sys
import threading
import time

import meep as mp
from meep import mpb
import numpy as np


def solve(image, k_points, num_bands=10):
  """Solves one cell; returns its grid, frequencies, velocities, seconds."""
  pixels = len(image)

  def material(point):
    i = int(round((point.x + 0.5) * pixels)) % pixels
    j = int(round((point.y + 0.5) * pixels)) % pixels
    return mp.Medium(epsilon=float(image[i, j]))

  solver = mpb.ModeSolver(
    geometry_lattice=mp.Lattice(size=mp.Vector3(1, 1)),
    default_material=material,
    k_points=[mp.Vector3(*k) for k in k_points],
    resolution=pixels,
    num_bands=num_bands,
    mesh_size=1,
  )
  velocities = []

  def keep(solver):
    found = solver.compute_group_velocities()
    velocities.append([[v.x, v.y] for v in found])

  start = time.perf_counter()
  solver.run_tm(keep)
  seconds = time.perf_counter() - start
  epsilon = np.array(solver.get_epsilon()).reshape(pixels, pixels)
  return epsilon, np.array(solver.all_freqs), np.array(velocities), seconds


def _end_with(parent):
  """Ends this process when its parent process changes."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)


def main():
  """Solves all cells of a file."""
  if sys.argv[3:]:
    watch = threading.Thread(target=_end_with, args=(int(sys.argv[3]),))
    watch.daemon = True
    watch.start()
  mp.verbosity(0)
  with np.load(sys.argv[1]) as file:
    images, k_points = file["permittivity"], file["k_points"]
  found = [solve(image, k_points) for image in images]
  epsilon, frequencies, velocities, seconds = zip(*found)  # noqa: B905
  np.savez(
    sys.argv[2],
    epsilon=epsilon,
    frequencies=frequencies,
    group_velocities=velocities,
    seconds=sum(seconds),
  )


if __name__ == "__main__":
  main()
