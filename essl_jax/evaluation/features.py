"""Features of a whole split: extraction, checks and standardisation."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.devices import parallel
from essl_jax.evaluation import single_pass

Encode = Callable[[Any, jax.Array], jax.Array]
"""`(variables, normalised images [N, H, W, 3]) -> features [N, D]`, pure."""


def extract(
  encode: Encode,
  variables: Any,
  source: Source,
  split: str,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  batch_size: int,
  resize: tuple[int, int] | None = None,
  mesh: Mesh | None = None,
  interrupt: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
  """Encodes every image of a split once, without augmentation.

  Each process reads its share of the images and gets the features of all; see
  `single_pass.run`. All batches have one shape, so `encode` is compiled once.
  Passing the same `encode` object again reuses the compiled function.

  Args:
    encode: the frozen encoder.
    variables: the encoder's variables.
    source: where the images come from.
    split: the split of the source.
    mean: mean to subtract from the channels of images in [0, 1].
    std: standard deviation to divide them by.
    batch_size: images at a time, over all devices.
    resize: (shorter side, centre crop) in pixels, bicubic; None does not
      resize.
    mesh: devices that share each batch; if None, this process encodes all
      images on its default device.
    interrupt: called before every batch, equally often in all processes; may
      raise.

  Returns:
    Features `[N, D]` float32 and labels `[N]` int32, in the source's order.

  Raises:
    ValueError: the source yields another number of examples than it promises,
      or the encoder's features are not `[N, D]`.
    FloatingPointError: the features are not finite.
  """
  place = (
    jnp.asarray
    if mesh is None
    else functools.partial(parallel.shard, mesh=mesh)
  )
  colours = {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}

  def encode_images(images: np.ndarray, _: int) -> jax.Array:
    interrupt()
    found = _embed(
      variables, place(images), encode=encode, resize=resize, **colours
    )
    if found.ndim != 2 or len(found) != batch_size:
      raise ValueError(
        f"features of {batch_size} images must be [{batch_size}, D], "
        f"got {found.shape}"
      )
    return found

  return single_pass.run(
    encode_images, source, split, batch_size=batch_size, mesh=mesh
  )


def fingerprint(variables: Any) -> str:
  """Hashes paths, dtypes, shapes and bytes of all leaves (SHA-256, hex)."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.asarray(leaf)
    name = jax.tree_util.keystr(path)
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


@contextlib.contextmanager
def unchanged(variables: Any) -> Iterator[None]:
  """Raises RuntimeError if an encoder's variables change within."""
  before = fingerprint(variables)
  yield
  if fingerprint(variables) != before:
    raise RuntimeError("an evaluation has changed the encoder's variables")


def check(
  name: str, features: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
  """Raises ValueError unless features and labels belong together."""
  shapes = np.shape(features), np.shape(labels)
  if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or 0 in shapes[0]:
    raise ValueError(
      f"{name} features must be [N, D] and labels [N], got {shapes[0]} and "
      f"{shapes[1]}"
    )
  if not np.isfinite(features).all():
    raise ValueError(f"{name} features are not finite")
  dtype = getattr(labels, "dtype", None) or np.asarray(labels).dtype
  if not np.issubdtype(dtype, np.integer):
    raise ValueError(f"{name} labels must be integers, got {dtype}")
  low, high = int(np.min(labels)), int(np.max(labels))
  if low < 0 or high >= num_classes:
    raise ValueError(
      f"{name} labels must be in [0, {num_classes}), got {low} to {high}"
    )


def standardise(
  train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Standardises both by the training moments, to a mean squared norm of 1."""
  train = np.asarray(train, np.float64)
  mean, std = train.mean(0), train.std(0)
  # Rounding errors must not be scaled up to unit variance.
  varies = std > 1e-6 * np.abs(train).max(0)
  scale = varies / (np.where(varies, std, 1) * np.sqrt(train.shape[1]))
  scaled = (train - mean) * scale
  return scaled.astype(np.float32), ((test - mean) * scale).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("encode", "mean", "std", "resize"))
def _embed(
  variables: Any,
  images: jax.Array,
  *,
  encode: Encode,
  mean: tuple[float, ...],
  std: tuple[float, ...],
  resize: tuple[int, int] | None,
) -> jax.Array:
  """Prepares and encodes one batch."""
  if resize is not None:
    images = augment.center_crop_resize(images, *resize, method="bicubic")
  features = encode(variables, augment.normalize(images, mean, std))
  return features.astype(jnp.float32)
