"""Compares our band solver with MPB: cells per hour, and differences.

  python experiments/profiling/photonics_speed.py --mpb=/usr/bin/python3

Both solve the same cells at the same 625 k-points with 10 bands and group
velocities, each with --processes processes of one thread, in turns within one
run; starting and compiling are not counted. `--mpb` is a Python in which MPB is
installed (Debian: python3-meep, python3-h5py, python3-matplotlib); without it,
only ours is measured. Writes experiments/results/photonics_speed.json.
"""

import os

from essl_jax.photonics import processes

os.environ.update(processes.ONE_THREAD)  # NumPy reads it when imported

import argparse  # noqa: E402
import concurrent.futures  # noqa: E402
import functools  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
import pathlib  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import essl_jax.start  # noqa: E402, F401

# isort: split
import numpy as np  # noqa: E402
import records  # noqa: E402

from essl_jax import arguments as arguments_lib  # noqa: E402
from essl_jax.errors import UsageError  # noqa: E402
from essl_jax.photonics import bands, cells, density  # noqa: E402
from essl_jax.storage import environment  # noqa: E402

_WORKER = pathlib.Path(__file__).with_name("photonics_mpb.py")
_RESULTS = _WORKER.parents[1] / "results" / "photonics_speed.json"


def make_cells(seed: int, first: int, count: int) -> np.ndarray:
  """Makes cells of all kinds in turn, [count, 32, 32]."""
  kinds = list(cells.KINDS)
  return np.stack(
    [
      cells.make(kinds[i % len(kinds)], seed, "test", i)
      for i in range(first, first + count)
    ]
  )


def solve_ours(permittivity: np.ndarray) -> tuple[float, np.ndarray]:
  """Solves cells: seconds for bands and densities, and the densities."""
  start = time.perf_counter()
  found = density.density_of_states(
    bands.solve(permittivity), permittivity.mean((1, 2), dtype=np.float64)
  )
  return time.perf_counter() - start, found


def run_ours(pool, processes: int, count: int, seed: int) -> float:
  """Our cells per hour; each process solves `count` at once."""
  shares = [make_cells(seed, count * i, count) for i in range(processes)]
  seconds = [s for s, _ in pool.map(solve_ours, shares)]
  return sum(3600 * count / s for s in seconds)


def run_mpb(
  python: str, processes: int, turn: int, seed: int
) -> tuple[float, list]:
  """MPB's cells per hour, each process solving one, and its results."""
  with tempfile.TemporaryDirectory() as folder:
    running = []
    for i in range(processes):
      name = pathlib.Path(folder) / str(i)
      np.savez(
        f"{name}-in.npz",
        permittivity=make_cells(seed, turn * processes + i, 1),
        k_points=bands.k_grid(),
      )
      command = [python, _WORKER, f"{name}-in.npz", f"{name}-out.npz"]
      command.append(str(os.getpid()))
      running.append(
        (name, subprocess.Popen(command, stdout=subprocess.DEVNULL))
      )
    found = []
    for name, process in running:
      if process.wait():
        raise UsageError(f"{python} {_WORKER} failed: see its output above")
      with np.load(f"{name}-out.npz") as file:
        found.append(dict(file))
  return sum(3600 / float(x["seconds"]) for x in found), found


def compare(found: list) -> dict[str, float]:
  """Differences of our bands from MPB's, on MPB's own grid of epsilon."""
  epsilon = np.concatenate([x["epsilon"] for x in found])
  theirs = bands.Bands(
    bands.k_grid(),
    np.concatenate([x["frequencies"] for x in found]),
    np.concatenate([x["group_velocities"] for x in found]),
  )
  ours = bands.solve(epsilon)
  is_positive = theirs.frequencies > 1e-6
  relative = np.abs(
    ours.frequencies[is_positive] / theirs.frequencies[is_positive] - 1
  )
  away = np.linalg.norm(ours.group_velocities - theirs.group_velocities, axis=3)
  speed = np.linalg.norm(theirs.group_velocities, axis=3)
  mean = epsilon.mean((1, 2))
  return {
    "cells": len(epsilon),
    "frequency_max_relative": float(relative.max()),
    "frequency_mean_relative": float(relative.mean()),
    "velocity_mean_difference_over_mean": float(away.sum() / speed.sum()),
    "velocity_99.9_percentile_difference": float(np.quantile(away, 0.999)),
    "density_relative_error": density.relative_error(
      density.density_of_states(ours, mean),
      density.density_of_states(theirs, mean),
    ),
  }


def measure_tricks(repetitions: int = 3) -> dict[str, float]:
  """Seconds per cell as one trick after the other is added, one process."""
  cell = make_cells(0, 0, 1)
  grid = bands.k_grid()

  def dense(k_points: np.ndarray, plane_waves: int) -> float:
    return timed(
      lambda: bands.solve(
        cell, k_points=k_points, plane_waves=plane_waves, method="full"
      )
    )

  def timed(function) -> float:
    function()  # compiles
    seconds = []
    for _ in range(repetitions):
      start = time.perf_counter()
      function()
      seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)

  few = grid[:8]  # in one row, so none is another's mirror image
  all_waves = dense(few[:2], 31) / 2
  some_waves = dense(few, bands.PLANE_WAVES) / len(few)
  half = len(grid) // 2 + 1
  waves = f"{bands.PLANE_WAVES} x {bands.PLANE_WAVES}"
  return {
    "31 x 31 waves, 625 k-points (from 2 of them)": all_waves * len(grid),
    f"{waves} waves, 625 k-points (from 8 of them)": some_waves * len(grid),
    "and time reversal, 313 k-points (from 8 of them)": some_waves * half,
    "and the reduced basis": timed(lambda: bands.solve(cell)),
  }


@arguments_lib.tells_wrong_input
def main() -> int:
  """Measures in turns; writes and prints the results."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--mpb", help="a Python with MPB")
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--cells", type=int, default=24, help="ours per turn")
  parser.add_argument("--seed", type=int, default=0, help="seed of the cells")
  parser.add_argument("--output", type=pathlib.Path, default=_RESULTS)
  arguments = parser.parse_args()
  arguments_lib.check_least(arguments, 1, "turns", "cells", most=10**6)
  arguments_lib.check_least(arguments, 1, "processes", most=1000)
  arguments_lib.check_least(arguments, 0, "seed")
  records.check_file("output", arguments.output)
  if arguments.mpb and shutil.which(arguments.mpb) is None:
    raise UsageError(f"--mpb={arguments.mpb} cannot be run: give a Python")

  ours, theirs, found = [], [], []
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(
    arguments.processes, context, processes.start_worker, (os.getpid(),)
  ) as pool:
    ours_once = functools.partial(
      run_ours, pool, arguments.processes, arguments.cells, arguments.seed
    )
    ours_once()  # compiles
    for turn in range(arguments.turns):
      ours.append(ours_once())
      if arguments.mpb:
        rate, solved = run_mpb(
          arguments.mpb, arguments.processes, turn, arguments.seed
        )
        theirs.append(rate)
        found += solved
      print(f"turn {turn}: ours {ours[-1]:.0f}, MPB {theirs[-1:]}", flush=True)
  results = {
    "command": "python experiments/profiling/photonics_speed.py"
    + (f" --mpb={arguments.mpb}" if arguments.mpb else "")
    + f" --processes={arguments.processes} --turns={arguments.turns}"
    + f" --cells={arguments.cells} --seed={arguments.seed}",
    "processor": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "load_average_at_end": os.getloadavg()[0],
    "environment": environment.describe(),
    "ours_cells_per_hour": ours,
    "mpb_cells_per_hour": theirs,
    "ratios": [a / b for a, b in zip(ours, theirs, strict=False)],
    "against_mpb": compare(found) if found else None,
    "seconds_a_cell_by_trick": measure_tricks(),
  }
  text = json.dumps(results, indent=2)
  arguments.output.write_text(text + "\n")
  print(text)
  return 0


if __name__ == "__main__":
  sys.exit(main())
