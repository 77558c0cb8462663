"""Computes features of the images in folders: `essl_jax.embed`."""

from collections.abc import Iterable, Sequence
import csv
import io
import os
import sys
from typing import Any, Literal, NamedTuple

import numpy as np

from essl_jax.api import encoders
from essl_jax.data import files as files_lib
from essl_jax.data import listing
from essl_jax.errors import UsageError
from essl_jax.storage import buckets, outputs, places
from essl_jax.texts import printable

_ENDINGS = (".npz", ".csv")
_CACHE_GIB = 32.0


class Embeddings(NamedTuple):
  """Features of images.

  Attributes:
    paths: of the images.
    features: float32 [N, F], in the same order.
  """

  paths: list[str]
  features: np.ndarray


def embed(
  source: str | os.PathLike[str] | encoders.Encoder,
  images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
  *,
  out: str | os.PathLike[str] | None = None,
  checkpoint: Literal["latest", "best"] = "latest",
  batch_size: int | None = None,
  overwrite: bool = False,
) -> Embeddings:
  """Computes the features of images, as the run's evaluations measure them.

  An image that cannot be read is reported on stderr and left out.

  Args:
    source: a run's workdir, a file of weights, or an encoder from `load`.
    images: a folder (searched with its subfolders), a file, or several of
      these.
    out: file to write: `.npz` with `paths` and `features`, or `.csv` with a
      line for each image.
    checkpoint: of a run: the `latest`, or the `best` by kNN.
    batch_size: images at a time, over all devices; by default 256 for each
      device.
    overwrite: replaces an existing file.

  Returns:
    Paths and features.

  Raises:
    UsageError: there is no such run or no image, or the file cannot be written;
      in one line.
  """
  return of_paths(
    source,
    images,
    out=out,
    checkpoint=checkpoint,
    batch_size=batch_size,
    overwrite=overwrite,
  )


def of_paths(
  source: str | os.PathLike[str] | encoders.Encoder,
  images: Any,
  *,
  out: str | os.PathLike[str] | None,
  checkpoint: str,
  batch_size: int | None,
  overwrite: bool,
  as_flags: bool = False,
  trust: bool = False,
  **given: Any,
) -> Embeddings:
  """Does the work of `embed`; `given` are further arguments of `encoders.read`.

  With `as_flags`, messages name flags instead of arguments.
  """
  if out is not None:
    check_out(out, overwrite=overwrite)
  paths = [path for each in _named(images) for path in find(each)]
  if not paths:
    raise UsageError("no images are given: give a folder or files")
  encoder = source
  if not isinstance(encoder, encoders.Encoder):
    encoder = encoders.read(encoder, checkpoint, trust, **given)
    if encoder.preprocess.lacking:
      raise UsageError(encoder.preprocess.missing(as_flags))

  def report(place: int, why: str) -> None:
    line = f"essl_jax: {paths[place]} is broken, left out: {why}"
    print(printable(line), file=sys.stderr)

  features, rows = encoder.encode(paths, batch_size, report)
  found = Embeddings([paths[row] for row in rows], features)
  if out is not None:
    outputs.write(out, to_bytes(found, os.fspath(out)))
  return found


def _named(images: Any) -> list[str | os.PathLike[str]]:
  """Returns the paths as a list; raises UsageError for anything else."""
  if isinstance(images, str | os.PathLike):
    return [images]
  try:
    found = list(images)
  except TypeError:
    found = [images]
  for each in found:
    if not isinstance(each, str | os.PathLike):
      raise UsageError(
        f"embed takes paths of images, got {type(each).__name__}: for arrays or"
        " Pillow images, call an encoder from essl_jax.load: encoder(images)"
      )
  return found


def check_out(path: str | os.PathLike[str], *, overwrite: bool) -> None:
  """Raises UsageError if a file must not or cannot be written."""
  if not os.fspath(path).endswith(_ENDINGS):
    raise UsageError(
      f"{os.fspath(path)} has no known ending: give a name that ends in"
      f" {' or '.join(_ENDINGS)}"
    )
  outputs.check_free(path, overwrite=overwrite)


def find(path: str | os.PathLike[str]) -> list[str]:
  """Finds the images in a folder and its subfolders, sorted.

  Args:
    path: a folder or a file, local or in a bucket.

  Returns:
    The images' paths; a file's own path.

  Raises:
    UsageError: there is no such path, or the folder holds no image.
  """
  text = os.fspath(path)
  if "\0" in text:
    raise UsageError(f"{text!r} is not a valid path")
  with buckets.refused(text):
    if not places.is_folder(places.locate(text, "images")):
      if not places.exists(places.locate(text, "images")):
        raise UsageError(f"there is no file or folder {text}")
      return [text]
    files = files_lib.open_folder(text, _CACHE_GIB)
    found = listing.Listing(files, files.root, [files.real(files.root)])
  listing.report_ignored(text, [found])
  if not found.files:
    raise UsageError(f"{text} holds no images: give a folder of image files")
  return [f"{files.root.rstrip('/')}/{inside}" for inside in found.files]


def to_bytes(embeddings: Embeddings, name: str) -> bytes:
  """Encodes features as a file.

  Args:
    embeddings: paths and features.
    name: of the file; its ending sets the format.

  Returns:
    `.npz` with `paths` and `features`; or `.csv` with the columns `path`, `0`,
    `1`, ..., whose numbers float32 reads back exactly.
  """
  paths, features = embeddings
  if name.endswith(".npz"):
    content = io.BytesIO()
    np.savez(content, paths=np.array(paths), features=features)
    return content.getvalue()
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["path", *range(features.shape[1])])
  for path, row in zip(paths, features, strict=True):
    writer.writerow([path, *_numbers(row)])
  return text.getvalue().encode("utf-8", "surrogateescape")


def _numbers(row: Sequence[float] | np.ndarray) -> list[str]:
  return [f"{value:.9g}" for value in row]
