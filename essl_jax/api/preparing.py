"""Prepares an encoder's images, as its weights or the caller state."""

from collections.abc import Iterable, Mapping, Sequence
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.api import images as images_lib
from essl_jax.api.images import ImageLike
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.errors import UsageError
from essl_jax.texts import first_line

_BATCH = 256  # images prepared at once
_NEEDED = ("image_size", "mean", "std")


class Preprocess:
  """Converts images of any kind to the encoder's input: normalised pixels.

  Attributes:
    settings: the preprocessing; raises UsageError if the weights lack it.
    lacking: arguments of `load` that are missing in that case.
  """

  def __init__(
    self,
    settings: Preprocessing | None,
    name: str = "",
    lacking: Sequence[str] = (),
  ):
    """Takes the settings, or the arguments that the file `name` lacks."""
    self._settings, self._name = settings, name
    self.lacking = tuple(lacking)

  def missing(self, as_flags: bool = False) -> str:
    """Returns a line that asks for missing arguments, or for flags."""
    asked, where = self.lacking, " to essl_jax.load"
    if as_flags:
      asked = tuple(f"--{x.replace('_', '-')}" for x in self.lacking)
      where = ""
    return (
      f"{self._name} does not say how its images were prepared: give"
      f" {', '.join(asked)}{where}"
    )

  @property
  def settings(self) -> Preprocessing:
    """See the attributes above; raises UsageError if they are unknown."""
    if self._settings is None:
      raise UsageError(self.missing())
    return self._settings

  def __call__(self, images: Iterable[ImageLike]) -> jax.Array:
    """Reads and prepares images, as the evaluations of a run do.

    Args:
      images: paths, arrays uint8 [H, W, 3] (or floating in [0, 1]) and Pillow
        images; or one array [N, H, W, C].

    Returns:
      float32 [N, S, S, C], normalised.

    Raises:
      UsageError: an image cannot be read, or the weights do not say how to
        prepare it.
      ValueError: an array is not an image.
    """
    settings = self.settings
    listed = images_lib.as_list(images)
    size, channels = settings.input_size, settings.image_shape[2]
    found = np.empty((len(listed), size, size, channels), np.float32)
    for rows, pixels in images_lib.batches(listed, settings, _BATCH):
      found[rows] = _prepare(pixels, settings)
    return jnp.asarray(found)


@functools.partial(jax.jit, static_argnames="settings")
def _prepare(pixels: jax.Array, settings: Preprocessing) -> jax.Array:
  return settings.on_device(pixels)


def of_metadata(
  path: str | os.PathLike[str],
  metadata: Mapping[str, Any],
  given: Mapping[str, Any],
) -> Preprocess:
  """Combines what the weights and the caller state about images.

  Args:
    path: of the weights, for messages.
    metadata: of the weights.
    given: arguments of `load`; None takes the weights' value.

  Returns:
    The preprocessing, or the arguments that are missing.

  Raises:
    UsageError: either is wrong.
  """
  name = os.fspath(path)
  known = _stated(name, metadata.get("preprocessing"))
  own = {k: x for k, x in given.items() if x is not None}
  there = {*own, *known} | ({"image_size"} if "image_shape" in known else set())
  if lacking := [x for x in _NEEDED if x not in there]:
    return Preprocess(None, name, lacking)
  try:
    channels = _channels(known, own)
    for each in {"mean", "std"} & set(own):
      own[each] = np.broadcast_to(
        np.asarray(own[each], np.float64), channels
      ).tolist()
    if (size := own.pop("image_size", None)) is not None:
      known |= {"image_shape": (size, size, channels), "resize_size": size}
      known.setdefault("input_size", size)
    return Preprocess(Preprocessing.from_json(known | own))
  except (ArithmeticError, TypeError, ValueError) as error:
    raise UsageError(
      "image_size, resize_size, mean, std or white_level is wrong:"
      f" {first_line(error)}"
    ) from error


def _stated(name: str, stated: Any) -> dict[str, Any]:
  """Returns the settings in the metadata; image sizes may be missing."""
  if stated is None:
    return {}
  try:
    if "image_shape" in stated:
      return Preprocessing.from_json(stated).to_json()
    size = stated["input_size"]
    shape = (size, size, len(stated["mean"]))
    whole = {**stated, "image_shape": shape, "resize_size": size}
    known = Preprocessing.from_json(whole).to_json()
  except (ArithmeticError, KeyError, TypeError, ValueError) as error:
    raise UsageError(
      f"{name} has a damaged header (preprocessing): export its weights again"
    ) from error
  return {k: known[k] for k in known.keys() - {"image_shape", "resize_size"}}


def _channels(known: Mapping[str, Any], own: Mapping[str, Any]) -> int:
  """Returns the number of channels of the images; 3 if nothing states it."""
  if "mean" in known:
    return len(known["mean"])
  counts = [np.size(own[x]) for x in ("mean", "std") if np.ndim(own[x])]
  return max(counts, default=3)
