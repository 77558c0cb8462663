"""Command line: `python -m essl_jax.report WORKDIR [WORKDIR ...]`."""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
from collections.abc import Sequence
import os
import sys
import tempfile

import jax

from essl_jax import arguments as arguments_lib
from essl_jax.errors import UsageError
from essl_jax.report import runs as runs_lib
from essl_jax.storage import buckets, lock, places

NAME = "report.html"
_BEGINNING = b"<!doctype html>"
_FEWEST = 10  # with fewer images, a map and a spectrum mean nothing


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = arguments_lib.Parser(
    prog="essl_jax.report",
    description="Writes one HTML page that shows runs side by side.",
  )
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="workdir of a finished run"
  )
  parser.add_argument(
    "--out", help=f"file to write (default: {NAME} in the first workdir)"
  )
  parser.add_argument(
    "--images",
    type=int,
    default=1000,
    help="most test images to encode, with five times as many training images;"
    " 0 reads neither data nor checkpoints (default: 1000)",
  )
  return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes the page.

  Args:
    arguments: the command line; by default the process's own.

  Raises:
    UsageError: the request cannot be fulfilled; nothing was written.
  """
  options = _parse(arguments)
  if options.images and options.images < _FEWEST:
    raise UsageError(
      f"--images={options.images} must be {_FEWEST} or more, or 0 to read"
      " neither data nor checkpoints"
    )
  runs = runs_lib.read(options.workdirs)
  out = runs[0].path / NAME
  if options.out is not None:
    out = places.locate(options.out, "--out")
    if os.path.islink(out):  # keep the link
      out = places.resolve(out)
  _check_writable(out)
  # Leave the accelerators to a training that runs at the same time.
  jax.config.update("jax_platforms", "cpu")
  # Imported here to report wrong input before matplotlib and Orbax load.
  from essl_jax.report import page, samples

  found = [samples.collect(run, options.images, print) for run in runs]
  try:
    places.replace_text(out, page.write(runs, found, print))
  except OSError as error:
    raise UsageError(_unwritable(out, error)) from error
  print(f"wrote {out} ({out.stat().length / 1e6:.1f} MB)")


def _check_writable(out: places.Path) -> None:
  """Raises UsageError before the work, which takes a minute."""
  with buckets.refused(out):
    if places.is_folder(out):
      raise UsageError(f"--out={out} is a folder: give the name of a file")
    is_there = places.exists(out)
  try:
    if places.is_remote(out):
      _try_bucket(out)
    else:
      with tempfile.TemporaryFile(dir=out.parent):
        pass
      if is_there and not os.access(out, os.W_OK):
        raise PermissionError("the file is write-protected")
  except OSError as error:
    raise UsageError(_unwritable(out, error)) from error
  is_odd = not places.is_remote(out) and not os.path.isfile(out)
  if is_there and (is_odd or not _is_page(out)):
    what = "not a regular file" if is_odd else "not a page of this program"
    raise UsageError(
      f"{out} exists, but is {what} and would be overwritten: give another"
      " file with --out, or remove it"
    )


def _try_bucket(out: places.Path) -> None:
  trial = lock.temporary(out)
  with buckets.refused(out):
    places.replace_bytes(trial, b"")
    places.remove(trial)


def _is_page(path: places.Path) -> bool:
  with path.open("rb") as file:
    return file.read(len(_BEGINNING)) in (_BEGINNING, b"")


def _unwritable(out: places.Path, error: OSError) -> str:
  reason = error.strerror or str(error)
  return f"cannot write {out} ({reason}): give another file with --out"


@arguments_lib.tells_wrong_input
def run() -> int:
  """Runs the program and returns its exit code."""
  try:
    main()
  except KeyboardInterrupt:
    print("interrupted: nothing was written", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(run())
