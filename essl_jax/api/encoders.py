"""Trained encoders, ready to be used: `essl_jax.load`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import os
import sys
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import config as config_lib
from essl_jax.api import images as images_lib
from essl_jax.api.images import Broken, ImageLike
from essl_jax.convert import encoders, runs
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.models.layers import attention, convolution, dense
from essl_jax.storage import buckets, places, weights
from essl_jax.training import networks
from essl_jax.training import step as step_lib

_BATCH = 256  # images a device encodes at once


class Preprocess:
  """Images of any kind to what the encoder takes: normalised pixels.

  Attributes:
    settings: what is done; None where the weights do not say.
  """

  def __init__(self, settings: Preprocessing | None, missing: str = ""):
    """Takes the settings, or what to say of missing ones."""
    self._settings, self._missing = settings, missing

  @property
  def settings(self) -> Preprocessing:
    """See the attributes above; UsageError where they are not known."""
    if self._settings is None:
      raise UsageError(self._missing)
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
      ValueError: an array is no image.
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


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder: images to features.

  Attributes:
    module: the Flax module, for loops of one's own.
    variables: its `params` and `batch_stats`, NumPy arrays.
    preprocess: makes its input of images.
    metadata: what is known of it: `recipe`, `step`, `classes`, `figures`, ...
  """

  module: nn.Module
  variables: Mapping[str, Any]
  preprocess: Preprocess
  metadata: Mapping[str, Any]

  def __call__(
    self, images: Iterable[ImageLike], *, batch_size: int | None = None
  ) -> np.ndarray:
    """The features of images, as the run's evaluations measure them.

    Args:
      images: paths, arrays uint8 [H, W, 3] (or floating in [0, 1]) and images
        of PIL, of any sizes; or one array [N, H, W, C].
      batch_size: images at a time, over all devices of this process; 256 for
        each by default.

    Returns:
      float32 [N, F].

    Raises:
      UsageError: an image cannot be read, or the weights do not say how to
        prepare it.
      ValueError: an array is no image.
    """
    features, _ = self.encode(images_lib.as_list(images), batch_size)
    return features

  def encode(
    self,
    images: Sequence[ImageLike],
    batch_size: int | None = None,
    broken: Broken | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """As a call, for images of which some may be left out.

    Args:
      images: see `__call__`.
      batch_size: see `__call__`.
      broken: is told of images that cannot be read; without it, the first of
        them raises.

    Returns:
      float32 [M, F], and the places of the M images in the list, ascending.

    Raises:
      UsageError: see `__call__`; and where no image can be read.
      FloatingPointError: features are not finite.
    """
    settings = self.preprocess.settings
    devices = self._mesh.size
    if batch_size is not None and batch_size < 1:
      raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    most = -(-(batch_size or _BATCH * devices) // devices) * devices
    found, rows = list[np.ndarray](), list[np.ndarray]()
    for part, pixels in images_lib.batches(images, settings, most, broken):
      if len(part):
        rows.append(part)
        found.append(self._of_batch(pixels, most))
    if not found:
      raise UsageError(f"none of the {len(images)} images can be read")
    order = np.argsort(np.concatenate(rows))
    features = np.concatenate(found)[order]
    if not np.isfinite(features).all():
      raise FloatingPointError(
        "features are not finite: the encoder has diverged"
      )
    return features, np.concatenate(rows)[order]

  def _of_batch(self, pixels: np.ndarray, most: int) -> np.ndarray:
    """Features of one batch, filled up to one of a few sizes."""
    count, devices = len(pixels), self._mesh.size
    each = 2 ** max(0, (-(-count // devices) - 1).bit_length())
    rows = min(most, each * devices)
    if rows > count:
      blank = np.zeros((rows - count, *pixels.shape[1:]), pixels.dtype)
      pixels = np.concatenate([pixels, blank])
    placed = parallel.shard(pixels, self._mesh)
    return np.asarray(self._run(self._placed, placed))[:count]

  @functools.cached_property
  def _mesh(self) -> jax.sharding.Mesh:
    return parallel.make_mesh(jax.local_devices())

  @functools.cached_property
  def _placed(self) -> Any:
    return parallel.replicate(dict(self.variables), self._mesh)

  @functools.cached_property
  def _run(self) -> Callable[[Any, jax.Array], jax.Array]:
    settings = self.preprocess.settings
    kind = self.metadata.get("features", "output")
    encode = step_lib.make_encode(self.module, kind)

    def run(variables: Any, pixels: jax.Array) -> jax.Array:
      return encode(variables, settings.on_device(pixels))

    return parallel.map_examples(run, self._mesh, gathers=False)


def load(
  path: str | os.PathLike[str],
  *,
  checkpoint: Literal["latest", "best"] = "latest",
  image_size: int | None = None,
  resize_size: int | None = None,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
) -> Encoder:
  """Loads a trained encoder.

  Args:
    path: a run's workdir, or a file of Flax weights (`*.safetensors`, from
      `essl-jax convert`); also in a bucket.
    checkpoint: of a run: the `latest`, or the `best` by kNN.
    image_size: side of the images that it takes, in pixels, for weights that do
      not say it; so are the others.
    resize_size: length to which the shorter side is resized before the centre
      is cut; `image_size` by default.
    mean: subtracted from the channels of images in [0, 1].
    std: divides them.

  Returns:
    The encoder. Of weights that do not say how images are prepared, a line on
    stderr asks for what is missing; only `module` and `variables` can be used.

  Raises:
    UsageError: there is no such run or file, or it holds no encoder; in one
      line.
  """
  if checkpoint not in ("latest", "best"):
    raise UsageError(f"checkpoint must be latest or best, got {checkpoint!r}")
  if _is_file(path):
    tree, metadata = weights.load(path)
  else:
    tree, metadata = runs.read(path, checkpoint)
  given: dict[str, Any] = {
    "image_size": image_size,
    "resize_size": resize_size,
    "mean": mean,
    "std": std,
  }
  module = _module(path, metadata)
  variables = {k: x["encoder"] for k, x in tree.items() if "encoder" in x}
  variables.setdefault("params", {})
  return Encoder(
    module, variables, _preprocess(path, metadata, given), metadata
  )


def _is_file(path: str | os.PathLike[str]) -> bool:
  """Whether to read a file of weights, not a run."""
  text = os.fspath(path)
  if not places.is_remote(text):
    return os.path.isfile(text) or text.endswith(".safetensors")
  with buckets.refused(text):
    return not places.is_folder(places.locate(text, "weights"))


def _module(
  path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> nn.Module:
  """The encoder that metadata describe."""
  found = encoders.fields(metadata)
  if found is None:
    raise UsageError(
      f"{os.fspath(path)} does not say which encoder it holds: export or"
      " convert its weights again"
    )
  if os.getcwd() not in sys.path:  # modules of one's own, as for recipes
    sys.path.append(os.getcwd())
  platform = jax.local_devices()[0].platform
  return networks.make_encoder(
    config_lib.encoder(found),
    metadata.get("precision", "float32"),
    conv_general_dilated=convolution.default_conv(platform),
    dot_general=dense.default_dot_general(platform),
    dot_product_attention=attention.default_attention(platform),
  )


def _preprocess(
  path: str | os.PathLike[str],
  metadata: Mapping[str, Any],
  given: Mapping[str, Any],
) -> Preprocess:
  """What the weights say of images, and what the caller says."""
  name, own = os.fspath(path), {k: x for k, x in given.items() if x is not None}
  known: dict[str, Any] = {}
  if (stated := metadata.get("preprocessing")) is not None:
    try:
      known = Preprocessing.from_json(stated).to_json()
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
      raise UsageError(
        f"{name} has a damaged header (preprocessing): export its weights again"
      ) from error
  lacking = [x for x in ("image_size", "mean", "std") if x not in own]
  if lacking and not known:
    missing = (
      f"{name} does not say how its images were prepared: give"
      f" {', '.join(lacking)} to essl_jax.load, or export its run again"
    )
    print(f"note: {missing}", file=sys.stderr)
    return Preprocess(None, missing)
  if (size := own.pop("image_size", None)) is not None:
    channels = len(own.get("mean") or known["mean"])
    known |= {"image_shape": (size, size, channels)}
    known |= {"resize_size": size, "input_size": size}
  try:
    return Preprocess(Preprocessing.from_json(known | own))
  except (ArithmeticError, TypeError, ValueError) as error:
    raise UsageError(
      f"image_size, resize_size, mean or std is wrong: {error}"
    ) from error
