"""AugSelf's term: by what the parameters of two views differ."""

from collections.abc import Callable, Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from essl_jax import inputs, losses
from essl_jax.augment import ViewParameters
from essl_jax.losses import common


def _regression(scores: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.mean((jnp.tanh(scores) - values) ** 2)


def _binary(scores: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, values))


# How each difference is learned; classes have a label and no numbers.
_LOSSES: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "crop": _regression,
  "color": _regression,
  "flip": _binary,
  "blur": _regression,
  "sol": _regression,
  "rot": losses.transformation_prediction,
}


_FACTORS = ("brightness", "contrast", "saturation")
_ROTATION = "rotation"  # the group whose elements are quarter turns


@inputs.any_sharding(by_example=True)
def differences(
  parameters1: ViewParameters,
  parameters2: ViewParameters,
  *,
  jitter: Sequence[float],
) -> dict[str, jax.Array]:
  """By what two views of the same images differ: the first minus the second.

  A part that was not applied counts with the value that says so, such as a
  factor of 1.

  Args:
    parameters1: of one view of N images.
    parameters2: of another view of the same images.
    jitter: strengths of brightness, contrast, saturation and hue that both
      views have, as of `augment.View`.

  Returns:
    By name, float32 [N, K] where nothing else is said:

    * `crop` [N, 4]: the differences of the windows' centres, downward and to
      the right, and of their heights and widths, in parts of the image. The
      second changes its sign where the first view is flipped, since there the
      image has its right on the left.
    * `color` [N, 4]: the differences of brightness, contrast, saturation and
      hue, divided by the width of the range that each is drawn from, so that
      they are in [-1, 1]; 0 for a part of strength 0.
    * `flip` [N, 1]: 1 where both views or neither are flipped, otherwise 0.
    * `blur` [N, 1]: the difference of sigma in pixels of the view.
    * `sol` [N]: the difference of the thresholds, of which 1 changes nothing.
    * `rot` int32 [N]: the quarter turns, counter-clockwise, that lead from the
      second to the first, 0 to 3; only if both views have elements of the
      group `rotation`.

  Raises:
    ValueError: the parameters are of different numbers of images, or `jitter`
      are not four finite numbers of at least 0.

  Reference:
    Lee et al. 2021 (arXiv 2111.09613), section 3.1.
  """
  widths = _range_widths(jitter)
  counts = np.shape(parameters1.crop), np.shape(parameters2.crop)
  if counts[0] != counts[1]:
    raise ValueError(
      "parameters1 and parameters2 must be of the same images, and their crops"
      f" are {counts[0]} and {counts[1]}"
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
  if all(_ROTATION in x.elements for x in both):
    found["rot"] = change(lambda x: x.elements[_ROTATION]) % 4
  return found


def _range_widths(jitter: Sequence[float]) -> list[float]:
  """How wide the ranges are that `augment.View.jitter` draws from."""
  if len(jitter) != 4 or not all(0 <= x < np.inf for x in jitter):
    raise ValueError(
      f"jitter must be four finite numbers of at least 0, got {jitter!r}"
    )
  widths = [1 + x - max(0, 1 - x) for x in jitter[:3]] + [2 * jitter[3]]
  return [width or 1.0 for width in widths]  # nothing differs where it is 0


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


@inputs.any_sharding(by_example=False)
def loss(
  predictions: Mapping[str, chex.Array],
  differences: Mapping[str, chex.Array],
  *,
  weights: Mapping[str, jax.typing.ArrayLike],
) -> jax.Array:
  """AugSelf's loss: the weighted sum of how badly each difference is named.

  The squared error of the hyperbolic tangent for `crop`, `color`, `blur` and
  `sol`, a binary cross entropy for `flip`, a cross entropy for `rot`. Needs no
  `axis_name`: examples do not see each other.

  Args:
    predictions: by name, the outputs [M, K] of the heads; both orders of the
      views are stacked.
    differences: by name, numbers [M, K], or [M] where K is 1, of `differences`;
      of `rot` labels, integers [M] in [0, K).
    weights: by name, numbers of at least 0. What has no weight is left out.

  Returns:
    The sum of the weighted means, a float32 scalar.

  Raises:
    ValueError: a weight has an unknown name, or one without a prediction or a
      difference; shapes do not fit; a weight is not a number of at least 0, or
      a label is no integer or known to be out of range.

  Example:
    >>> crop = {"crop": jnp.zeros((2, 4))}
    >>> moved = {"crop": jnp.full((2, 4), 0.5)}
    >>> print(loss(crop, moved, weights={"crop": 2.0}))
    0.5

  Reference:
    Lee et al. 2021 (arXiv 2111.09613), equations 3 and 4.
  """
  names = sorted(weights)
  total = jnp.zeros((), jnp.float32)
  for name, weight in zip(
    names, common.as_weights(names, weights), strict=True
  ):
    for given in (_LOSSES, predictions, differences):
      if name not in given:
        raise ValueError(
          f"weights[{name!r}] has nothing to weigh; there are"
          f" {', '.join(sorted(given))}"
        )
    total += weight * _one(name, predictions[name], differences[name])
  return total


def _one(name: str, scores: chex.Array, difference: chex.Array) -> jax.Array:
  """The loss of one difference; ValueError where shapes do not fit."""
  learn = _LOSSES[name]
  if learn is losses.transformation_prediction:
    return learn(scores, difference)
  shape, found = np.shape(scores), np.shape(difference)
  if len(shape) == 2 and found == shape[:1] and shape[1] == 1:
    difference = jnp.asarray(difference)[:, None]
    found = shape
  if len(shape) != 2 or 0 in shape or found != shape:
    raise ValueError(
      f"predictions[{name!r}] and differences[{name!r}] must be of one shape"
      f" [M, K], not empty, got {shape} and {found}"
    )
  return learn(common.as_float32(scores), common.as_float32(difference))
