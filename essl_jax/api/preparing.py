"""How an encoder's images are prepared, as its weights or the caller say."""

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
  """Images of any kind to what the encoder takes: normalised pixels.

  Attributes:
    settings: what is done; UsageError where the weights do not say.
    lacking: arguments of `load` that have to say it then.
  """

  def __init__(
    self,
    settings: Preprocessing | None,
    name: str = "",
    lacking: Sequence[str] = (),
  ):
    """Takes the settings, or what lacks of those of the file `name`."""
    self._settings, self._name = settings, name
    self.lacking = tuple(lacking)

  def missing(self, as_flags: bool = False) -> str:
    """A line that asks for what lacks, as arguments or as flags."""
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
    """See the attributes above; UsageError where they are not known."""
    if self._settings is None:
      raise UsageError(self.missing())
    return self._settings

  def __call__(self, images: Iterable[ImageLike]) -> jax.Array:
    """Reads and prepares images, as the evaluations of a run do.

    Args:
      images: paths, arrays uint8 [H, W, 3] (or floating in [0, 1]) and images
        of PIL; or one array [N, H, W, C].

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
  """What weights say of images, and what the caller says.

  Args:
    path: of the weights, for messages.
    metadata: of them.
    given: arguments of `load`; None where the weights are to say it.

  Returns:
    How images are prepared, or what lacks to know it.

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
  """What metadata say; the size of the images may be missing."""
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
  """Channels of the images; 3 where nothing tells them."""
  if "mean" in known:
    return len(known["mean"])
  counts = [np.size(own[x]) for x in ("mean", "std") if np.ndim(own[x])]
  return max(counts, default=3)
