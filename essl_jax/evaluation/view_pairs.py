"""Pairs of views of images: their features and their differences."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment, inputs
from essl_jax.augment.parameters import JITTERS
from essl_jax.equivariance import differences as differences_lib

NUMBERS = {
  "crop": ("down", "right", "height", "width"),
  "color": JITTERS,
  "blur": ("sigma",),
  "rot": ("turns of the first", "turns of the second"),
}
"""Differences between the views of a pair, and the names of their numbers."""

Pair = tuple[augment.View, augment.View]


class Pairs(NamedTuple):
  """Pairs of views; those of one image are in consecutive rows.

  Attributes:
    features: [N, 2 F], features of both views side by side.
    differences: by name [N, K], the first minus the second; for `rot` [N, 2],
      the quarter turns of each view.
    jittered: booleans [N]: whether both views are jittered.
    images: integers [N]: index of the image.
  """

  features: np.ndarray
  differences: Mapping[str, np.ndarray]
  jittered: np.ndarray
  images: np.ndarray

  def only(self, rows: np.ndarray) -> "Pairs":
    """The pairs that booleans [N] select."""
    return jax.tree.map(lambda x: x[rows], self)


def of_views(views: Any, blur: float) -> list[tuple[Pair, list[str]]]:
  """How pairs are drawn, and which differences are measured on them.

  Args:
    views: `config.views`.
    blur: probability of the blur, if the views draw none.

  Returns:
    The method's views and, if they lack blur or rotations, the same views with
    these added.
  """
  plain = (views.first, views.second)
  there = differences_lib.drawn_by(plain, views.extra)
  found = [(plain, [name for name in NUMBERS if name in there])]
  missing = [name for name in ("blur", "rot") if name not in there]
  if not missing:
    return found
  turns = differences_lib.ROTATION
  more = list(plain)
  if "blur" in missing:
    more = [dataclasses.replace(x, blur=blur) for x in more]
  if "rot" in missing:
    more = [
      x
      if turns in (*x.groups, views.extra)
      else dataclasses.replace(x, groups=(*x.groups, turns))
      for x in more
    ]
  return [*found, ((more[0], more[1]), missing)]


def make_look(
  encode: Callable[[Any, jax.Array], jax.Array], pair: Pair, extra: str | None
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Makes a function for the features and differences of a pair of views.

  Args:
    encode: the frozen encoder.
    pair: how the views are drawn.
    extra: one more group, as in `augment.random_view`.

  Returns:
    A pure function of the encoder's variables and of (uint8 images [N, H, W,
    C], one random key per image [N]) to float32 [N, 2 F + K]: the features,
    whether both views are jittered, and the numbers of `NUMBERS`, 0 for those
    that the views do not draw.
  """

  def look(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    own = inputs.image_keys(keys, len(images))
    features, drawn = [], []
    for number, view in enumerate(pair):
      made, parameters = augment.random_view(
        augment.fold_each(own, number),
        images,
        view,
        extra=extra,
        return_parameters=True,
      )
      features.append(encode(variables, made).astype(jnp.float32))
      drawn.append(parameters)
    jitter = differences_lib.largest_jitter(pair)
    told = differences_lib.differences(*drawn, jitter=jitter)
    turns = [
      x.elements.get(differences_lib.ROTATION, jnp.zeros(len(images), int))
      for x in drawn
    ]
    told["rot"] = jnp.stack(turns, axis=1)
    jittered = (drawn[0].jittered & drawn[1].jittered)[:, None]
    columns = [jittered, *(told[name] for name in NUMBERS)]
    numbers = [x.astype(jnp.float32) for x in columns]
    return jnp.concatenate([*features, *numbers], axis=1)

  return look


def as_pairs(rows: np.ndarray, names: Sequence[str]) -> Pairs:
  """Splits the output of `make_look`, [N, P, 2 F + K] for P pairs per image."""
  images = np.repeat(np.arange(len(rows)), rows.shape[1])
  rows = rows.reshape(len(images), -1)
  sizes = [1, *map(len, NUMBERS.values())]
  features, told = np.split(rows, [rows.shape[1] - sum(sizes)], axis=1)
  jittered, *each = np.split(told, np.cumsum(sizes)[:-1], axis=1)
  by_name = dict(zip(NUMBERS, each, strict=True))
  differences = {name: by_name[name] for name in names}
  return Pairs(features, differences, jittered[:, 0] > 0, images)
