"""Random views of images: their settings, and how they are drawn."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import numbers
from typing import Any

import chex
import jax
import jax.numpy as jnp

from essl_jax import inputs, transformations
from essl_jax.augment.arrays import (
  as_float,
  fold_each,
  per_image,
  uniform,
)
from essl_jax.augment.blur import gaussian_blur
from essl_jax.augment.color import (
  color_jitter,
  normalize,
  solarize,
  to_grayscale,
)
from essl_jax.augment.geometry import (
  KERNELS,
  horizontal_flip,
  resized_crop,
  sample_crop_boxes,
)

# Per field of a View: how many numbers, the smallest and the largest. A mean
# and a deviation may be of one channel.
_CHANNELS = ("mean", "std")
_LIMITS: dict[str, tuple[int, float, float]] = {
  "size": (1, 1, 2**14),
  "scale": (2, 1e-6, 1),
  "ratio": (2, 1e-6, 1e6),
  "flip": (1, 0, 1),
  "jitter": (4, 0, 100),
  "jitter_probability": (1, 0, 1),
  "grayscale": (1, 0, 1),
  "blur": (1, 0, 1),
  "blur_sigma": (2, 0, 100),
  "solarize": (1, 0, 1),
  "solarize_threshold": (1, 0, 1),
  "mean": (3, -1000, 1000),
  "std": (3, 1e-6, 1000),
}


def _fits(name: str, value: Any) -> bool:
  """Whether a value of a View's field has its number of values, in range."""
  count, low, high = _LIMITS[name]
  several = isinstance(value, Sequence) and not isinstance(value, str)
  values: tuple[Any, ...] = tuple(value) if several else (value,)
  kind: Any = numbers.Integral if name == "size" else numbers.Real
  counts = (1, count) if name in _CHANNELS else (count,)
  return (
    several == (count > 1)
    and len(values) in counts
    and all(isinstance(x, kind) and low <= x <= high for x in values)
    and (count != 2 or values[0] <= values[1])
  )


@dataclasses.dataclass(frozen=True)
class View:
  """What `random_view` does to an image; hashable, so static under `jit`.

  Attributes:
    size: side of the square view in pixels.
    scale: smallest and largest area of the crop, as a fraction of the image.
    ratio: smallest and largest ratio of the crop's width to its height.
    interpolation: `bilinear` or `bicubic`.
    flip: probability of a left-right flip.
    jitter: strengths of brightness, contrast, saturation and hue. The first
      three draw a factor from [max(0, 1 - x), 1 + x]; hue turns by [-x, x] of
      the colour circle.
    jitter_probability: probability of the jitter, whose four parts come in
      random order.
    grayscale: probability of grayscale, with three equal channels.
    blur: probability of a Gaussian blur.
    blur_sigma: smallest and largest standard deviation of the blur in pixels.
    solarize: probability of inverting bright values.
    solarize_threshold: where bright begins, in [0, 1].
    groups: transformation groups (`transformations.find_augmentation`): one
      random element of each is applied.
    mean: subtracted at the end, per channel: three numbers or one.
    std: divided by at the end, per channel.

  Raises:
    ValueError: a field is out of range; names it, its value and the range.
  """

  size: int = 32
  scale: tuple[float, float] = (0.2, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = "bilinear"
  flip: float = 0.5
  jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
  jitter_probability: float = 0.8
  grayscale: float = 0.2
  blur: float = 0.0
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  solarize: float = 0.0
  solarize_threshold: float = 128 / 255
  groups: tuple[str, ...] = ()
  mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
  std: tuple[float, ...] = (0.2023, 0.1994, 0.2010)

  def __post_init__(self) -> None:
    for name in _LIMITS:
      value = getattr(self, name)
      if not _fits(name, value):
        count, low, high = _LIMITS[name]
        kind = "whole" if name == "size" else "real"
        order = ", ascending" if count == 2 else ""
        number = f"1 or {count}" if name in _CHANNELS else str(count)
        raise ValueError(
          f"{name}={value!r} of a view must be {number} {kind} number(s) in "
          f"[{low}, {high}]{order}"
        )
      if isinstance(value, Sequence):
        object.__setattr__(self, name, tuple(value))
    if self.interpolation not in KERNELS:
      raise ValueError(
        f"interpolation={self.interpolation!r} of a view must be one of "
        f"{', '.join(KERNELS)}"
      )
    object.__setattr__(self, "groups", tuple(self.groups))
    for name in self.groups:
      try:
        transformations.find_augmentation(name)
      except ValueError as error:
        raise ValueError(f"groups={self.groups!r} of a view: {error}") from None
    if self.jitter[3] > 0.5:
      raise ValueError(
        f"jitter={self.jitter!r} of a view turns hues, its last number, by "
        "more than 0.5"
      )

  @property
  def is_whole(self) -> bool:
    """Whether the crop is the whole of a square image."""
    return tuple(self.scale) == tuple(self.ratio) == (1, 1)

  def check_channels(self, channels: int) -> None:
    """Raises ValueError unless images of so many channels can be viewed."""
    if not len(self.mean) == len(self.std) == channels:
      raise ValueError(
        f"mean={self.mean} and std={self.std} of a view must have one number"
        f" for each of the {channels} channel(s) of its images"
      )
    is_jittered = self.jitter_probability > 0 and any(self.jitter)
    if channels != 3 and (is_jittered or self.grayscale):
      raise ValueError(
        f"jitter={self.jitter} and grayscale={self.grayscale:g} of a view"
        f" change colours, and images of {channels} channel(s) have none: set"
        " jitter_probability and grayscale to 0"
      )


def _as_view(view: View | Mapping[str, Any]) -> View:
  if isinstance(view, View):
    return view
  allowed = [field.name for field in dataclasses.fields(View)]
  unknown = sorted(set(view) - set(allowed))
  if unknown or "size" not in view:
    raise ValueError(
      f"a view needs `size` and has no {unknown}; got {sorted(view)}, allowed"
      f" are {', '.join(allowed)}"
    )
  return View(**view)


@inputs.any_sharding(by_example=True)
def random_view(
  key: chex.PRNGKey,
  images: chex.Array,
  view: View | Mapping[str, Any],
  *,
  crop: bool = True,
  extra: str | None = None,
  normalized: bool = True,
) -> jax.Array:
  """Draws one view of each image.

  In this order: crop, flip, colour jitter, grayscale, blur, solarize,
  elements of groups, the extra group, normalise. What has probability or
  strength 0 is not computed at all, nor is a crop that is the whole image at
  its own size.

  Args:
    key: one key, expanded by `fold_in(key, i)` for image i, or `[N]` keys, so
      that a view depends on its own key only and n devices can draw the views
      of one; typed, or legacy `[2]` and `[N, 2]`. Keep JAX's default
      (threefry) generator: others do not draw per key under `vmap`.
    images: `[N, H, W, 3]`, or `[N, H, W, 1]` for a view without colours.
    view: what is done: a `View`, or a mapping of its fields with a `size`.
    crop: False where the images are crops of the view's size already.
    extra: a group of `transformations.find_augmentation`; with probability 1/2
      one of its elements other than the identity is applied.
    normalized: False leaves the pixels in [0, 1], which transformations of
      colour expect; `normalize` comes after them.

  Returns:
    `[N, size, size, C]`, float32.

  Raises:
    ValueError: a mapping without `size` or with unknown fields; another number
      of keys; floating images that are known not to be in [0, 1]; images to be
      left uncropped that are not of the view's size, or of other channels than
      the view has numbers or colours for.
  """
  view, images = _as_view(view), as_float(images)
  view.check_channels(images.shape[-1])
  own_keys = inputs.image_keys(key, images.shape[0])
  crop_keys, draw_keys = jax.vmap(jax.random.split, out_axes=1)(own_keys)
  images = _crop(images, view, crop_keys if crop else None)
  images = _flip_and_recolour(images, view, uniform(draw_keys, 14).T)
  images = _apply_groups(images, view, own_keys, extra)
  return normalize(images, view.mean, view.std) if normalized else images


def _crop(images: jax.Array, view: View, keys: jax.Array | None) -> jax.Array:
  """A random crop of each image; without keys the images are crops already."""
  is_sized = images.shape[1:3] == (view.size, view.size)
  if is_sized and (keys is None or view.is_whole):
    return images
  if keys is None:
    raise ValueError(
      f"crops of a view of size {view.size} must be [N, {view.size},"
      f" {view.size}, C], got shape {images.shape}"
    )
  boxes = sample_crop_boxes(
    keys, images.shape[0], images.shape[1:], view.scale, view.ratio
  )
  return resized_crop(images, boxes, view.size, view.interpolation)


def _flip_and_recolour(
  images: jax.Array, view: View, draws: jax.Array
) -> jax.Array:
  """Flip to solarize, by 14 numbers in [0, 1) for each image, [14, N]."""

  def sometimes(
    probability: float, draw: jax.Array, changed: jax.Array
  ) -> jax.Array:
    now = per_image(draw < probability, images, "draw")[..., None]
    return jnp.where(now, changed, images)

  if view.flip:
    images = horizontal_flip(images, draws[0] < view.flip)
  if view.jitter_probability and any(view.jitter):
    jittered = color_jitter(images, draws[1:9], view.jitter)
    images = sometimes(view.jitter_probability, draws[9], jittered)
  if view.grayscale:
    images = sometimes(view.grayscale, draws[10], to_grayscale(images))
  if view.blur:
    low, high = view.blur_sigma
    sigma = low + (high - low) * draws[11]
    blurred = gaussian_blur(images, sigma, max_sigma=high)
    images = sometimes(view.blur, draws[12], blurred)
  if view.solarize:
    inverted = solarize(images, view.solarize_threshold)
    images = sometimes(view.solarize, draws[13], inverted)
  return images


def _apply_groups(
  images: jax.Array, view: View, keys: jax.Array, extra: str | None
) -> jax.Array:
  """A random element of each group of the view, and sometimes of one more."""
  # 0 and 1 would be the keys of the crop and of the draws.
  own_keys = (fold_each(keys, number) for number in itertools.count(2))
  for name in view.groups:
    group = transformations.find_augmentation(name)
    images, _ = group.apply_random(next(own_keys), images)
  if extra is not None:
    group = transformations.find_augmentation(extra)
    images, _ = group.apply_sometimes(next(own_keys), images)
  return images
