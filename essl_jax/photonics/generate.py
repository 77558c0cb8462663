"""Command line that generates a data set of unit cells.

python -m essl_jax.photonics.generate --kind=blob --labelled=5000 \
  --unlabelled=15000 --out=data/blob

writes `unlabelled.h5`, `train.h5`, `validation.h5`, `test.h5`, `manifest.json`
and `report.png` into --out. The same command resumes after an interruption.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import importlib.metadata
import os
import pathlib
import sys
import time
from typing import Any

from essl_jax import arguments as arguments_lib
from essl_jax.photonics import processes

if __name__ == "__main__":
  # Read when NumPy, SciPy and JAX are imported; workers inherit it.
  os.environ.update(processes.ONE_THREAD)

import essl_jax.start  # noqa: E402, F401

# isort: split
import jax  # noqa: E402
import numpy as np  # noqa: E402
import rich.progress  # noqa: E402

from essl_jax.errors import UsageError  # noqa: E402
from essl_jax.photonics import bands, cells, storage  # noqa: E402
from essl_jax.photonics import settings as settings_lib  # noqa: E402
from essl_jax.storage import places  # noqa: E402

LABELLED_PART, UNLABELLED_PART = 16, 512  # cells, some seconds of work
_PLAIN_SECONDS = 30.0  # between two lines without a progress bar
_PACKAGES = ("essl-jax", "jax", "jaxlib", "numpy", "scipy", "h5py")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = arguments_lib.Parser(
    prog="essl_jax.photonics.generate", description=__doc__.split("\n")[0]
  )
  parser.add_argument("--kind", required=True, choices=list(cells.KINDS))
  parser.add_argument(
    "--labelled", type=int, default=5000, help="training and test cells"
  )
  parser.add_argument(
    "--test",
    type=int,
    help="how many of --labelled are for test; two fifths by default",
  )
  parser.add_argument(
    "--validation",
    type=int,
    help="further labelled cells for validation; a tenth of --labelled by"
    " default",
  )
  parser.add_argument("--unlabelled", type=int, default=15000)
  parser.add_argument("--out", required=True, type=_directory)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--workers", type=int, default=os.cpu_count() or 1, help="processes"
  )
  return parser.parse_args(arguments)


def _directory(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError("is empty: give a directory")
  if places.is_remote(text):
    raise argparse.ArgumentTypeError(
      f"{text} is in a bucket: give a directory on this machine, and copy it to"
      " the bucket at the end"
    )
  return text


def main(arguments: Sequence[str] | None = None) -> None:
  """Generates a data set, or the missing rest of it.

  Args:
    arguments: command-line arguments; by default those of the process.

  Raises:
    UsageError: wrong arguments, or a failure; finished cells are kept.
  """
  options = _parse(arguments)
  if options.workers < 1:
    raise UsageError(f"--workers={options.workers} must be 1 or more")
  settings = settings_lib.make(
    options.kind,
    options.seed,
    options.labelled,
    options.unlabelled,
    options.test,
    options.validation,
  )
  directory = pathlib.Path(places.locate(options.out, "--out"))
  with (
    storage.claim(directory, settings),
    storage.told(directory),
    jax.default_device(_cpu()),
  ):
    _generate(directory, settings, options.workers)


def _cpu() -> jax.Device:
  """Returns the CPU, which solves bands: not every accelerator has float64."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError as error:
    raise UsageError(
      "JAX_PLATFORMS leaves out the CPU, which computes the bands: add it, as"
      " in JAX_PLATFORMS=tpu,cpu"
    ) from error


def _generate(
  directory: pathlib.Path, settings: dict[str, Any], workers: int
) -> None:
  parts = {
    split: _parts(count, split)
    for split, count in settings["counts"].items()
    if count
  }
  whole = storage.recorded(directory)
  waiting = [
    (split, indices)
    for split, all_of_it in parts.items()
    if split not in whole
    for indices in all_of_it
    if storage.read_part(directory, split, indices) is None
  ]
  total = sum(settings["counts"].values())
  done = total - sum(len(indices) for _, indices in waiting)
  if waiting:
    make = functools.partial(make_part, settings["kind"], settings["seed"])
    with (
      _bar(total, done) as advance,
      contextlib.closing(processes.run(make, waiting, workers)) as finished,
    ):
      for (split, indices), arrays in finished:
        storage.write_part(directory, split, arrays)
        advance(len(indices))
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  for split, all_of_it in parts.items():
    if split not in whole:
      storage.assemble(directory, split, all_of_it)
      storage.record(directory, split, versions)
    storage.remove_parts(directory, split)
  _finish(directory, settings, list(parts))


def _parts(count: int, split: str) -> list[range]:
  size = UNLABELLED_PART if split == "unlabelled" else LABELLED_PART
  return [range(i, min(i + size, count)) for i in range(0, count, size)]


def _finish(
  directory: pathlib.Path, settings: dict[str, Any], splits: Sequence[str]
) -> None:
  """Writes the picture, and prints a summary."""
  from essl_jax.photonics import report

  labelled = [split for split in splits if split != "unlabelled"]
  if not (directory / report.NAME).exists():
    report.write(directory, labelled[0] if labelled else "unlabelled")
  listed = ", ".join(f"{n:,} {k}" for k, n in settings["counts"].items() if n)
  print(f"{directory}: {listed}; see {directory / report.NAME}")


@contextlib.contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[int], None]]:
  """Shows progress; without a terminal, as a line every 30 seconds."""
  is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
  start, first, last = time.monotonic(), done, time.monotonic()
  columns = rich.progress.Progress.get_default_columns()
  with rich.progress.Progress(
    *columns, rich.progress.MofNCompleteColumn(), disable=not is_terminal
  ) as bar:
    task = bar.add_task("cells", total=total, completed=done)

    def advance(count: int) -> None:
      nonlocal done, last
      done += count
      bar.update(task, completed=done)
      now = time.monotonic()
      if not is_terminal and (now - last > _PLAIN_SECONDS or done == total):
        last = now
        rate = (done - first) / (now - start)
        print(f"cell {done:,}/{total:,}  {rate:.3g} cells/s", flush=True)

    yield advance


def make_part(
  kind: str, seed: int, split: str, indices: Sequence[int]
) -> dict[str, np.ndarray]:
  """Makes some cells of a split, with labels if the split has them.

  Args:
    kind: as in `cells.make`.
    seed: seed of the data set.
    split: name of the split.
    indices: indices of the cells, [N].

  Returns:
    `index` int64 [N], `permittivity` float32 [N, 32, 32] and, for labelled
    cells, `density_of_states` float32 [N, 500].
  """
  made = np.stack([cells.make(kind, seed, split, i) for i in indices])
  arrays = {"index": np.array(indices, np.int64), "permittivity": made}
  if split != "unlabelled":
    from essl_jax.photonics import density

    found = density.density_of_states(
      bands.solve(made), made.mean((1, 2), dtype=np.float64)
    )
    arrays["density_of_states"] = found.astype(np.float32)
  return arrays


@arguments_lib.tells_wrong_input
def run() -> int:
  """Runs the program and returns its exit code."""
  try:
    main()
  except KeyboardInterrupt:
    print(
      "interrupted: finished cells are kept; the same command resumes",
      file=sys.stderr,
    )
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(run())
