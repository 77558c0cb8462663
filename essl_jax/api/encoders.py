"""Loads trained encoders: `essl_jax.load`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import os
import sys
from typing import Any, Literal

from flax.errors import FlaxError
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from essl_jax import config as config_lib
from essl_jax.api import images as images_lib
from essl_jax.api import preparing
from essl_jax.api.images import Broken, ImageLike
from essl_jax.api.preparing import Preprocess
from essl_jax.config import parts, recipes
from essl_jax.convert import encoders, runs
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.models.layers import attention, convolution, dense
from essl_jax.storage import buckets, places, weights
from essl_jax.texts import first_line
from essl_jax.training import networks
from essl_jax.training import step as step_lib

_BATCH = 256  # images that a device encodes at once


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A trained encoder, which maps images to features.

  Attributes:
    module: the Flax module, for your own loops.
    variables: its `params` and `batch_stats`, as NumPy arrays.
    preprocess: converts images to its input.
    metadata: facts about it: `recipe`, `step`, `classes`, `figures`, ...
  """

  module: nn.Module
  variables: Mapping[str, Any]
  preprocess: Preprocess
  metadata: Mapping[str, Any]

  def __call__(
    self, images: Iterable[ImageLike], *, batch_size: int | None = None
  ) -> np.ndarray:
    """Computes features of images, as the run's evaluations measure them.

    Args:
      images: paths, arrays uint8 [H, W, 3] (or floating in [0, 1]) and Pillow
        images, of any sizes; or one array [N, H, W, C].
      batch_size: images at a time, over all devices of this process; by
        default 256 for each device.

    Returns:
      float32 [N, F].

    Raises:
      UsageError: an image cannot be read, or the weights do not say how to
        prepare it.
      ValueError: an array is not an image.
    """
    features, _ = self.encode(images_lib.as_list(images), batch_size)
    return features

  def encode(
    self,
    images: Sequence[ImageLike],
    batch_size: int | None = None,
    broken: Broken | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Like a call, but can leave out images that cannot be read.

    Args:
      images: see `__call__`.
      batch_size: see `__call__`.
      broken: called for each image that cannot be read; without it, the first
        such image raises.

    Returns:
      float32 [M, F], and the positions of the M images in the list, ascending.

    Raises:
      UsageError: see `__call__`; or no image can be read.
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
    """Encodes one batch, padded to one of a few sizes."""
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
  mean: ArrayLike | None = None,
  std: ArrayLike | None = None,
  white_level: float | None = None,
  trust: bool = False,
) -> Encoder:
  """Loads a trained encoder.

  Loading a run imports the modules beside its recipe, so load only runs that
  you trust. A file of weights executes nothing.

  Args:
    path: a run's workdir, or a file of Flax weights (`*.safetensors`, from
      `essl-jax convert`); either may be in a bucket.
    checkpoint: of a run: the `latest`, or the `best` by kNN.
    image_size: side of the cropped images, in pixels. This and the following
      arguments are for weights that do not state them. It is also the
      encoder's input size if the weights do not state that.
    resize_size: length to which the shorter side is resized before the centre
      is cropped; `image_size` by default.
    mean: subtracted from the channels of images in [0, 1]; a number, or one for
      each channel.
    std: divides them.
    white_level: white level of images of more than eight bits.
    trust: whether a file of weights may name your own encoder. Its module is
      then imported from the current folder, which runs its code.

  Returns:
    The encoder. If weights do not state how to prepare images, a line on stderr
    asks for the missing arguments, and only `module` and `variables` work.

  Raises:
    UsageError: there is no such run or file, or it holds no encoder; in one
      line.
  """
  encoder = read(
    path,
    checkpoint,
    trust=trust,
    image_size=image_size,
    resize_size=resize_size,
    mean=mean,
    std=std,
    white_level=white_level,
  )
  if encoder.preprocess.lacking:
    print(f"note: {encoder.preprocess.missing()}", file=sys.stderr)
  return encoder


def read(
  path: str | os.PathLike[str],
  checkpoint: str = "latest",
  trust: bool = False,
  **given: Any,
) -> Encoder:
  """Does the work of `load`, without the line about missing arguments."""
  if checkpoint not in ("latest", "best"):
    raise UsageError(f"checkpoint must be latest or best, got {checkpoint!r}")
  if "\0" in os.fspath(path):
    raise UsageError(f"{os.fspath(path)!r} is not a valid path")
  if _is_file(path):
    tree, metadata = weights.load(path)
    _check_trust(path, metadata, trust)
  else:
    tree, metadata = runs.read(path, checkpoint)
  module = _module(path, metadata)
  variables = {k: x["encoder"] for k, x in tree.items() if "encoder" in x}
  variables.setdefault("params", {})
  preprocess = preparing.of_metadata(path, metadata, given)
  if not preprocess.lacking:
    advice = f"{os.fspath(path)} has weights of another encoder than it says"
    if any(x is not None for x in given.values()):
      advice = "give another image_size, mean or std"
    _check_shape(module, variables, preprocess.settings, advice)
  return Encoder(module, variables, preprocess, metadata)


def _check_trust(
  path: str | os.PathLike[str], metadata: Mapping[str, Any], trust: bool
) -> None:
  """Refuses files that name a module, unless trusted; then makes it importable.

  Raises:
    UsageError: the encoder is not one of the package.
  """
  name = (encoders.fields(metadata) or {}).get("name", "")
  if not parts.is_path(name):
    return
  if not trust:
    raise UsageError(
      f"{os.fspath(path)} names the encoder {name!r:.80}, whose module would"
      " run: if you trust the file and that module, give trust=True to"
      " essl_jax.load (--trust to essl-jax embed)"
    )
  recipes.make_importable(None)


def _check_shape(
  module: nn.Module,
  variables: Mapping[str, Any],
  settings: Preprocessing,
  advice: str,
) -> None:
  """Raises UsageError if the encoder cannot take such images."""
  size, channels = settings.input_size, settings.image_shape[2]
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  try:
    jax.eval_shape(step_lib.make_encode(module), variables, images)
  except (FlaxError, TypeError, ValueError) as error:
    raise UsageError(
      f"the encoder cannot take images [{size}, {size}, {channels}]: {advice}"
      f" ({first_line(error)})"
    ) from error


def _is_file(path: str | os.PathLike[str]) -> bool:
  """Whether to read a file of weights instead of a run."""
  text = os.fspath(path)
  if not places.is_remote(text):
    return os.path.isfile(text) or text.endswith(".safetensors")
  with buckets.refused(text):
    return not places.is_folder(places.locate(text, "weights"))


def _module(
  path: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> nn.Module:
  """Builds the encoder that metadata describe."""
  found = encoders.fields(metadata)
  if found is None:
    raise UsageError(
      f"{os.fspath(path)} does not say which encoder it holds: export or"
      " convert its weights again"
    )
  platform = jax.local_devices()[0].platform
  return networks.make_encoder(
    config_lib.encoder(found),
    metadata.get("precision", "float32"),
    conv_general_dilated=convolution.default_conv(platform),
    dot_general=dense.default_dot_general(platform),
    dot_product_attention=attention.default_attention(platform),
  )
