"""Differences between the parameters of two views of an image."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.augment import View, ViewParameters

_FACTORS = ("brightness", "contrast", "saturation")
ROTATION = "rotation"  # the group whose elements are quarter turns


@inputs.any_sharding(by_example=True)
def differences(
  parameters1: ViewParameters,
  parameters2: ViewParameters,
  *,
  jitter: Sequence[float],
) -> dict[str, jax.Array]:
  """Computes how two views of the same images differ: first minus second.

  An augmentation that was not applied counts with its neutral value, such as a
  factor of 1.

  Args:
    parameters1: of one view of N images.
    parameters2: of another view of the same images.
    jitter: strengths of brightness, contrast, saturation and hue of both views;
      see `augment.View`.

  Returns:
    By name, float32 [N, K] unless stated otherwise:

    * `crop` [N, 4]: the differences of the windows' centres, downward and to
      the right, and of their heights and widths, in parts of the image. The
      second changes its sign if the first view is flipped, because left and
      right are then swapped.
    * `color` [N, 4]: the differences of brightness, contrast, saturation and
      hue, each divided by the width of the range that it is drawn from, so that
      they are in [-1, 1]; 0 for a strength of 0.
    * `flip` [N, 1]: 1 if both views or neither are flipped, otherwise 0.
    * `blur` [N, 1]: the difference of sigma in pixels of the view.
    * `sol` [N]: the difference of the thresholds; a threshold of 1 changes
      nothing.
    * `rot` int32 [N]: the number of quarter turns, counter-clockwise, that lead
      from the second to the first, 0 to 3; only if both views have elements of
      the group `rotation`.

  Raises:
    ValueError: the parameters belong to different numbers of images, or
      `jitter` is not four finite numbers of at least 0.

  Reference:
    Lee et al. 2021 (arXiv 2111.09613), section 3.1.
  """
  widths = _range_widths(jitter)
  counts = np.shape(parameters1.crop), np.shape(parameters2.crop)
  if counts[0] != counts[1]:
    raise ValueError(
      "parameters1 and parameters2 must belong to the same images, and have"
      f" crops {counts[0]} and {counts[1]}"
    )
  both = parameters1.as_applied(), parameters2.as_applied()
  change = lambda read: jnp.subtract(*map(read, both))
  found = {
    "crop": _moved(*both),
    "color": jnp.stack(
      [
        change(lambda x, name=name: getattr(x, name)) / width
        for name, width in zip((*_FACTORS, "hue"), widths, strict=True)
      ],
      axis=1,
    ),
    "flip": jnp.equal(*(x.flip for x in both)).astype(jnp.float32)[:, None],
    "blur": change(lambda x: x.sigma)[:, None],
    "sol": change(lambda x: x.threshold),
  }
  if all(ROTATION in x.elements for x in both):
    found["rot"] = change(lambda x: x.elements[ROTATION]) % 4
  return found


def _range_widths(jitter: Sequence[float]) -> list[float]:
  """The widths of the ranges that `augment.View.jitter` draws from."""
  if len(jitter) != 4 or not all(0 <= x < np.inf for x in jitter):
    raise ValueError(
      f"jitter must be four finite numbers of at least 0, got {jitter!r}"
    )
  widths = [1 + x - max(0, 1 - x) for x in jitter[:3]] + [2 * jitter[3]]
  return [width or 1.0 for width in widths]  # at width 0 nothing differs


def _moved(first: ViewParameters, second: ViewParameters) -> jax.Array:
  """The difference of the windows, [N, 4]; see `differences`."""
  starts, sizes = (
    jnp.stack(x)
    for x in zip(
      *(jnp.split(x.relative_crop, 2, axis=1) for x in (first, second)),
      strict=True,
    )
  )
  centers = starts + sizes / 2
  side = jnp.where(first.flip, -1.0, 1.0)
  down, right = jnp.unstack(centers[0] - centers[1], axis=1)
  moved = jnp.stack([down, right * side], axis=1)
  return jnp.concatenate([moved, sizes[0] - sizes[1]], axis=1)


def largest_jitter(views: Sequence[View]) -> tuple[float, ...]:
  """The largest strength of each jitter among views."""
  return tuple(max(x) for x in zip(*(v.jitter for v in views), strict=True))


def drawn_by(views: Sequence[View], extra: str | None = None) -> set[str]:
  """Names the differences that views of an image may have.

  Args:
    views: how the views are drawn.
    extra: one more group that is applied to them.

  Returns:
    The differences that at least one view draws; `rot` only if all views draw
    quarter turns.
  """
  are_drawn = {
    "crop": not all(view.is_whole for view in views),
    "color": any(view.is_jittered for view in views),
    "flip": any(view.flip for view in views),
    "blur": any(view.blur for view in views),
    "sol": any(view.solarize for view in views),
    "rot": all(ROTATION in (*view.groups, extra) for view in views),
  }
  return {name for name, is_drawn in are_drawn.items() if is_drawn}
