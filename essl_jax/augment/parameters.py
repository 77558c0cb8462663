"""Parameters of random views: what is done to each image, and how it is drawn.

Parameters are drawn first and applied afterwards, so they describe a view and
can reproduce it.
"""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any, Self

import chex
import flax
import jax
import jax.numpy as jnp

from essl_jax import inputs, transformations
from essl_jax.augment.arrays import fold_each, uniform
from essl_jax.augment.color import jitter_of
from essl_jax.augment.geometry import sample_crop_boxes
from essl_jax.augment.view import View, as_view

JITTERS = ("brightness", "contrast", "saturation", "hue")


class ViewParameters(flax.struct.PyTreeNode):
  """What was done to each of N images to make a view of it, in this order.

  Brackets show the value of an operation that was not applied. The flags
  `jittered`, `blurred` and `solarized` decide, because even a blur of sigma 0
  rounds. All arrays have N rows.

  Attributes:
    crop: int32 `[N, 4]`: top, left, height and width of the window, in pixels
      of the original image (0, 0, height and width of the image).
    image_size: int32 `[N, 2]`: height and width of that image, in pixels.
    flip: bool `[N]`: whether left and right are mirrored, after the crop
      (False).
    jittered: bool `[N]`: whether brightness to hue are changed (False).
    brightness: float32 `[N]`, a factor (1).
    contrast: float32 `[N]`, a factor (1).
    saturation: float32 `[N]`, a factor (1).
    hue: float32 `[N]`, in turns of the colour circle, -0.5 to 0.5 (0).
    jitter_order: int32 `[N, 4]`: the positions of brightness, contrast,
      saturation and hue in the order of application, from 0 (-1).
    grayscale: bool `[N]` (False).
    blurred: bool `[N]` (False).
    sigma: float32 `[N]`: standard deviation of the blur, in pixels of the view
      (0).
    solarized: bool `[N]` (False).
    threshold: float32 `[N]`, in [0, 1]: values from here on are inverted (1).
    elements: int32 `[N]` by group: the label of the element applied (0, the
      identity). If a group occurs twice, the second is named `rotation 2`.
  """

  crop: jax.Array
  image_size: jax.Array
  flip: jax.Array
  jittered: jax.Array
  brightness: jax.Array
  contrast: jax.Array
  saturation: jax.Array
  hue: jax.Array
  jitter_order: jax.Array
  grayscale: jax.Array
  blurred: jax.Array
  sigma: jax.Array
  solarized: jax.Array
  threshold: jax.Array
  elements: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)

  @property
  def relative_crop(self) -> jax.Array:
    """The window as fractions of the image, float32 `[N, 4]`."""
    sides = jnp.concatenate([self.image_size, self.image_size], axis=1)
    return jnp.asarray(self.crop, jnp.float32) / sides

  def as_applied(self) -> Self:
    """Resets the values of operations that were drawn but not applied."""
    factors = {
      name: jnp.where(self.jittered, getattr(self, name), name != "hue")
      for name in JITTERS
    }
    is_jittered = jnp.asarray(self.jittered)[:, None]
    return self.replace(
      jitter_order=jnp.where(is_jittered, self.jitter_order, -1),
      sigma=jnp.where(self.blurred, self.sigma, 0),
      threshold=jnp.where(self.solarized, self.threshold, 1),
      **{k: jnp.asarray(x, jnp.float32) for k, x in factors.items()},
    )


def element_names(groups: Sequence[str], extra: str | None) -> dict[str, str]:
  """Maps names in `elements` to a view's groups, the extra group included."""
  found: dict[str, str] = {}
  for group in (*groups, *([extra] if extra is not None else [])):
    same = sum(group == other for other in found.values())
    found[f"{group} {same + 1}" if same else group] = group
  return found


def draw_parameters(
  key: chex.PRNGKey,
  count: int,
  image_shape: Sequence[int],
  view: View | Mapping[str, Any],
  *,
  crop: bool = True,
  extra: str | None = None,
) -> ViewParameters:
  """Draws the parameters that `random_view` uses with the same key.

  Args:
    key: as in `random_view`.
    count: number of images.
    image_shape: (H, W, ...) of the images in pixels.
    view: as in `random_view`.
    crop: as in `random_view`; False makes the window the whole image.
    extra: as in `random_view`.

  Returns:
    The parameters of all images.

  Raises:
    ValueError: as in `random_view`.
  """
  view = as_view(view)
  drawn = draw(key, count, image_shape, view, crop=crop, extra=extra)
  return drawn.as_applied()


def draw(
  key: chex.PRNGKey,
  count: int,
  image_shape: Sequence[int],
  view: View,
  *,
  crop: bool,
  extra: str | None,
) -> ViewParameters:
  """Draws parameters; operations that are not applied keep arbitrary values."""
  own_keys = inputs.image_keys(key, count)
  crop_keys, draw_keys = jax.vmap(jax.random.split, out_axes=1)(own_keys)
  sides = jnp.asarray(image_shape[:2], jnp.int32)
  if crop and not is_left(image_shape, view):
    boxes = sample_crop_boxes(
      crop_keys, count, image_shape, view.scale, view.ratio
    )
  else:
    whole = jnp.concatenate([jnp.zeros(2, jnp.int32), sides])
    boxes = jnp.broadcast_to(whole, (count, 4))
  draws = uniform(draw_keys, 14).T
  factors, places = jitter_of(draws[1:9], view.jitter)
  low, high = view.blur_sigma
  return ViewParameters(
    crop=boxes,
    image_size=jnp.broadcast_to(sides, (count, 2)),
    flip=draws[0] < view.flip,
    jittered=(draws[9] < view.jitter_probability) & any(view.jitter),
    **dict(zip(JITTERS, factors, strict=True)),
    jitter_order=jnp.stack(places, axis=1),
    grayscale=draws[10] < view.grayscale,
    blurred=draws[12] < view.blur,
    sigma=low + (high - low) * draws[11],
    solarized=draws[13] < view.solarize,
    threshold=jnp.full(count, view.solarize_threshold, jnp.float32),
    elements=_draw_elements(own_keys, view, extra),
  )


def _draw_elements(
  keys: jax.Array, view: View, extra: str | None
) -> dict[str, jax.Array]:
  """Draws an element of each group and, sometimes, one of the extra group."""
  # The keys of the crop and of the other draws are numbers 0 and 1.
  own_keys = (fold_each(keys, number) for number in itertools.count(2))
  found = {}
  for number, (name, group) in enumerate(
    element_names(view.groups, extra).items()
  ):
    of = transformations.find_augmentation(group)
    is_extra = number == len(view.groups)
    draw = of.draw_sometimes if is_extra else of.draw
    found[name] = draw(next(own_keys), view.size)
  return found


def is_left(image_shape: Sequence[int], view: View) -> bool:
  """Tells whether cropping leaves images of this shape unchanged."""
  return view.is_whole and tuple(image_shape[:2]) == (view.size, view.size)
