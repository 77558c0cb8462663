"""Opens TFDS data sets and prepares those that are not prepared yet.

Only this file imports TensorFlow or TensorFlow Datasets, and only inside
functions.
"""

import contextlib
import difflib
import os
import pathlib
import re
import sys
from typing import Any
import urllib.parse

from essl_jax.errors import UsageError
from essl_jax.storage import buckets, places
from essl_jax.texts import first_line

_CONNECT_SECONDS = 10


class UnknownSetError(UsageError):
  """TFDS has no set of this name."""


def import_tensorflow() -> tuple[Any, Any]:
  """Imports TensorFlow quietly and keeps it off the accelerators.

  Returns:
    The modules tensorflow and tensorflow_datasets.

  Raises:
    UsageError: one of them, or a package they need, is not installed.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  # Its start-up message ignores the log level.
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  try:
    import importlib_resources  # noqa: F401
    import tensorflow as tf
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UsageError(
      f"{error.name or error} is not installed, but TFDS data sets need it:"
      " pip install tensorflow-cpu tensorflow-datasets importlib_resources, or"
      " use data.name=digits or an .npz file"
    ) from error
  # TensorFlow would take all the memory of a GPU that JAX trains on. It refuses
  # if it already uses the GPU, which then was the caller's choice.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], "GPU")
  tfds.disable_progress_bar()
  return tf, tfds


def open_builder(
  name: str, data_dir: str | None, *, prepare: bool = True
) -> Any:
  """Returns the TFDS builder of a prepared data set.

  Args:
    name: TFDS name: "cifar10", "imagenet_v2/topimages", "cifar10:3.0.2".
    data_dir: directory of prepared sets, local or in a bucket; None means
      TFDS's default.
    prepare: whether to download and prepare a missing set if there is a
      network. Sets are never prepared in a bucket.

  Returns:
    A `tfds.core.DatasetBuilder` whose data can be read.

  Raises:
    UnknownSetError: TFDS has no such name.
    UsageError: the set is neither prepared nor available for download.
  """
  _, tfds = import_tensorflow()
  directory = None if data_dir is None else os.path.expanduser(data_dir)
  is_remote = directory is not None and places.is_remote(directory)
  if directory and is_remote:
    buckets.check_folder(directory, "data.dir")
  try:
    builder = tfds.builder(name, data_dir=directory)
  except tfds.core.DatasetNotFoundError as error:
    raise UnknownSetError(_unknown_name(name, directory, tfds)) from error
  except Exception as error:
    reason = first_line(error, with_type=True)
    # Of what can be no name, and of a name's configurations.
    kind = UnknownSetError if isinstance(error, ValueError) else UsageError
    raise kind(f"data.name={name!r}: {reason}") from error
  if not builder.info.splits:
    looked_for = f"data set {name!r} is not prepared in {builder.data_dir}"
    if is_remote:
      looked_for += f": run `tfds build {name}`, and copy the result there"
    if is_remote or not prepare:
      raise UsageError(looked_for)
    _prepare(builder, name, looked_for, tfds)
  return builder


def skip_decoding(builder: Any) -> dict[str, Any]:
  """Returns decoders that leave a set's images encoded."""
  _, tfds = import_tensorflow()
  return {
    key: tfds.decode.SkipDecoding()
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  }


def check_tfds_split(builder: Any, split: str) -> int:
  """Returns the number of examples of a TFDS split or sub-split.

  Args:
    builder: a prepared builder.
    split: for instance "train" or "train[:5000]".

  Raises:
    UsageError: the split does not exist, or the slice is wrong or empty.
  """
  valid = (
    f"{builder.name} has the splits "
    f"{', '.join(sorted(builder.info.splits))}; parts are written train[:500]"
  )
  try:
    size = builder.info.splits[split].num_examples
  except Exception as error:
    reason = first_line(error, with_type=True)
    raise UsageError(
      f"cannot read the split {split!r} ({reason}): {valid}"
    ) from error
  if not size:
    raise UsageError(f"the split {split!r} is empty: {valid}")
  return size


def _prepare(builder: Any, name: str, looked_for: str, tfds: Any) -> None:
  """Downloads and prepares a set, or raises UsageError saying how to do it."""
  advice = (
    f"run `tfds build {name} --data_dir DIR` (or download_and_prepare) on a "
    "machine with a network and give --config.data.dir=DIR, or use "
    "--config.data.name=folder (see docs/images.md), digits or an .npz file"
  )
  obstacle = _network_obstacle(builder)
  if obstacle:
    raise UsageError(f"{looked_for}, and {obstacle}: {advice}")
  if sys.stderr.isatty():
    tfds.enable_progress_bar()
  try:
    builder.download_and_prepare()
  except Exception as error:
    reason = first_line(error, with_type=True)
    raise UsageError(
      f"{looked_for}, and preparing it failed ({reason}): {advice}"
    ) from error
  finally:
    tfds.disable_progress_bar()


def _network_obstacle(builder: Any) -> str | None:
  """Says which source of a set cannot be reached, or returns None.

  Without a network, TFDS itself retries for minutes, and behind a silent
  firewall it waits forever, so one short request to each host goes first.
  """
  import requests

  urls = [u for u in builder.url_infos or {} if u.startswith("http")]
  downloads = pathlib.Path(builder.data_dir_root) / "downloads"
  if builder.MANUAL_DOWNLOAD_INSTRUCTIONS or any(downloads.rglob("*.INFO")):
    # The files may already be there; TFDS will check.
    return None
  by_host = {urllib.parse.urlsplit(url).netloc: url for url in urls}
  for host, url in by_host.items():
    try:
      with requests.get(url, stream=True, timeout=_CONNECT_SECONDS) as answer:
        if answer.status_code >= 500:
          return f"{host} answers with HTTP status {answer.status_code}"
    except requests.RequestException as error:
      return f"{host} cannot be reached ({type(error).__name__})"
  return None


def _unknown_name(name: str, directory: str | None, tfds: Any) -> str:
  known = tfds.list_builders(with_community_datasets=False)
  close = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=4)
  meant = f"did you mean {', '.join(close)}?" if close else "see tfds.org"
  where = f" and not prepared in {directory}" if directory else ""
  return (
    f"data.name={name!r} is unknown to TFDS{where}: {meant} (digits, a path "
    "ending in .npz, or a TFDS name)"
  )
