"""Files of a data set during generation; a kill at any point loses little.

Cells are written in parts. Each part is a file that appears whole, by renaming.
The parts of a split are assembled into one HDF5 file, which appears whole too.
The manifest then stores its digest, and only then are the parts removed.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import errno
import hashlib
import io
import json
import pathlib
import shutil
from typing import Any

import h5py
import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.limits import regular_size
from essl_jax.data.npz import DamagedError, read_npz
from essl_jax.errors import UsageError
from essl_jax.photonics import settings as settings_lib
from essl_jax.storage import lock, places
from essl_jax.storage import workdir as workdir_lib

MANIFEST = "manifest.json"
_PARTS = "parts"


@contextlib.contextmanager
def claim(
  directory: pathlib.Path, settings: Mapping[str, Any]
) -> Iterator[None]:
  """Holds a directory for one process and one set of settings.

  Args:
    directory: created if it does not exist.
    settings: settings that determine the data; stored in the manifest.

  Raises:
    UsageError: the directory holds other data, or another process works there.
  """
  with contextlib.ExitStack() as stack:
    with told(directory):
      directory.mkdir(parents=True, exist_ok=True)
      refusal = f"another process is generating into {directory}"
      if stack.enter_context(lock.alone(directory, refusal)):
        for folder in (directory, directory / _PARTS):
          lock.remove_left_overs(folder)
    manifest = read_manifest(directory)
    if not manifest:
      # Parts do not store their kind and seed.
      foreign = sorted(p.name for p in directory.glob("*.h5"))
      foreign += [_PARTS] if any(directory.glob(f"{_PARTS}/*")) else []
      if foreign:
        raise UsageError(
          f"{directory} holds {foreign[0]} but no {MANIFEST}: give another"
          " --out"
        )
      write_manifest(directory, {"settings": dict(settings)})
    else:
      _compare(directory, manifest["settings"], settings)
    yield


def _compare(
  directory: pathlib.Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  differ = [
    f"--{name} was {was} when this directory was started, and is {now} now"
    if name in settings_lib.FLAGS
    else f"it was started with {name} {was}, which is {now} now"
    for name, was, now in settings_lib.differences(old, new)
  ]
  if differ:
    raise UsageError(
      f"{directory}: {'; '.join(differ)}: give the same settings to resume, or"
      " another --out"
    )


def recorded(directory: pathlib.Path) -> list[str]:
  """Returns the splits whose files match their digests in the manifest.

  Leaves out files without a digest: a kill came before it was stored.

  Raises:
    UsageError: a file is not as it was written.
  """
  digests = read_manifest(directory).get("sha256", {})
  there = [x for x in sorted(digests) if (directory / x).exists()]
  for name in there:
    if digest(directory / name) != digests[name]:
      raise UsageError(
        f"{directory / name} does not match its digest in {MANIFEST}: delete it"
        " and run again"
      )
  return [name.removesuffix(".h5") for name in there]


def record(
  directory: pathlib.Path, split: str, versions: Mapping[str, str]
) -> None:
  """Stores the digest of a new split in the manifest.

  Args:
    directory: directory of the data set.
    split: name of the split.
    versions: versions of the packages that made it.
  """
  manifest = read_manifest(directory)
  name = f"{split}.h5"
  found = {**manifest.get("sha256", {}), name: digest(directory / name)}
  manifest |= {"versions": dict(versions), "sha256": found}
  write_manifest(directory, manifest)


@contextlib.contextmanager
def told(directory: pathlib.Path) -> Iterator[None]:
  """Turns errors of writing a directory into one line."""
  try:
    yield
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      raise UsageError(
        f"no space left for {directory}; finished cells are kept: free some"
        " space and run the same command again"
      ) from error
    raise UsageError(
      f"cannot write {directory}: {error.strerror or error}"
    ) from error


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """Reads the manifest; returns an empty one if there is none.

  Raises:
    UsageError: it is damaged.
  """
  path = directory / MANIFEST
  if not path.exists():
    return {}
  try:
    regular_size(path)
    manifest = dict(json.loads(path.read_text(encoding="utf-8")))
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise UsageError(f"{path} is damaged: give another --out") from error
  settings = manifest.get("settings")
  counts = settings.get("counts") if isinstance(settings, dict) else None
  if not isinstance(counts, dict) or not all(
    isinstance(x, int) for x in counts.values()
  ):
    raise UsageError(f"{path} holds no settings: give another --out")
  if not isinstance(manifest.get("sha256", {}), dict):
    raise UsageError(f"{path} holds no digests: give another --out")
  return manifest


def write_manifest(
  directory: pathlib.Path, manifest: Mapping[str, Any]
) -> None:
  """Replaces the manifest atomically."""
  with told(directory):
    workdir_lib.write_json(directory / MANIFEST, manifest)


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file, all of it or nothing; UsageError if that fails."""
  with told(path.parent):
    places.replace_bytes(path, content)


def _part(directory: pathlib.Path, split: str, first: int) -> pathlib.Path:
  return directory / _PARTS / f"{split}-{first:08d}.npz"


def write_part(
  directory: pathlib.Path, split: str, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes the cells of one part, whose indices are `arrays["index"]`."""
  path = _part(directory, split, int(arrays["index"][0]))
  with told(directory):
    path.parent.mkdir(exist_ok=True)
  stream = io.BytesIO()
  np.savez(stream, **dict[str, Any](arrays))
  replace(path, stream.getvalue())


def read_part(
  directory: pathlib.Path, split: str, indices: range
) -> dict[str, np.ndarray] | None:
  """Reads a part; None if it is missing, damaged or of other indices."""
  try:
    _, arrays = read_npz(
      _part(directory, split, indices.start), config_lib.Data.max_bytes
    )
  except (OSError, DamagedError):
    return None
  is_these = np.array_equal(arrays.get("index", ()), indices)
  return arrays if is_these else None


def assemble(
  directory: pathlib.Path, split: str, parts: Sequence[range]
) -> None:
  """Assembles a split's HDF5 file from its parts, in order; keeps the parts.

  Args:
    directory: directory of the data set.
    split: name of the split.
    parts: indices of each part; all parts have been written.
  """
  read = []
  for indices in parts:
    arrays = read_part(directory, split, indices)
    if arrays is None:
      raise UsageError(
        f"a part of {split} in {directory} vanished: run the same command again"
      )
    read.append(arrays)
  # In memory, because HDF5 crashes if the disk fills up.
  stream = io.BytesIO()
  with h5py.File(stream, "w") as file:
    for name in read[0]:
      whole = np.concatenate([arrays[name] for arrays in read])
      file.create_dataset(name, data=whole)
  replace(directory / f"{split}.h5", stream.getvalue())


def remove_parts(directory: pathlib.Path, split: str) -> None:
  """Removes the parts of an assembled split, and their empty directory."""
  for path in (directory / _PARTS).glob(f"{split}-*"):
    path.unlink(missing_ok=True)
  if not any((directory / _PARTS).glob("*")):
    shutil.rmtree(directory / _PARTS, ignore_errors=True)


def digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, in hexadecimal."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
