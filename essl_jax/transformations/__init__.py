"""Groups of image transformations, to predict or to augment with.

`GROUPS` holds the groups whose elements a network can predict. `AUGMENTATIONS`
adds those with too many elements for that. `find` also makes products, such as
`rotation*horizontal_flip`. Images are uint8 or floating in [0, 1], not
normalised, because inversion and grayscale assume that range.

Reference: Dangovski et al. 2022 (arXiv 2111.00899), section 3 and figure 1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import itertools
import pkgutil

import chex
import jax

from essl_jax.transformations.checks import check_elements
from essl_jax.transformations.elements import (
  flip,
  gaussian_blur,
  half_shift,
  identity,
  invert,
  permute_quadrants,
  quarter_turns,
  to_grayscale,
)
from essl_jax.transformations.group import (
  CyclicShifts,
  TransformationGroup,
  overlap,
)
from essl_jax.transformations.products import product

__all__ = (
  "ANY_ROLL",
  "AUGMENTATIONS",
  "FOUR_FOLD_ROTATION",
  "GROUPS",
  "CyclicShifts",
  "TransformationGroup",
  "check_elements",
  "find",
  "find_augmentation",
  "four_fold_rotation",
  "overlap",
  "product",
)

_SHIFTS = frozenset({"across", "down"})


def _group(
  name: str,
  elements: Sequence[Callable[[jax.Array], jax.Array]],
  names: str = "",
  moves: Iterable[str] = (),
  drawn_by: Sequence[str] = (),
) -> TransformationGroup:
  """Makes a built-in group; `names` has its element names between commas."""
  return TransformationGroup(
    name,
    tuple(elements),
    element_names=tuple(filter(None, names.split(", "))),
    moves=frozenset(moves),
    drawn_by=tuple(drawn_by),
  )


FOUR_FOLD_ROTATION = _group(
  "rotation", [quarter_turns(k) for k in range(4)], "0°, 90°, 180°, 270°"
)
ANY_ROLL = CyclicShifts("any_roll", _SHIFTS)
_BLURS = (5, 9, 15)  # kernel sizes in pixels

GROUPS: Mapping[str, TransformationGroup] = {
  group.name: group
  for group in (
    FOUR_FOLD_ROTATION,
    _group(
      "horizontal_flip",
      (identity, flip(2)),
      "identity, left-right",
      {"mirror"},
      ["flip"],
    ),
    _group(
      "vertical_flip", (identity, flip(1)), "identity, up-down", {"turn over"}
    ),
    # Labels of flips and half translations match E-SSL's program.
    _group(
      "flips",
      (identity, flip(1), flip(2), flip(1, 2)),
      "identity, up-down, left-right, both",
      {"mirror", "turn over"},
      ["flip"],
    ),
    _group(
      "half_translation",
      (identity, half_shift(2), half_shift(1), half_shift(1, 2)),
      "identity, right, down, both",
      _SHIFTS,
    ),
    _group(
      "half_swap", (identity, half_shift(2)), "identity, swapped", {"across"}
    ),
    _group(
      "vertical_half_swap",
      (identity, half_shift(1)),
      "identity, swapped",
      {"down"},
    ),
    _group(
      "jigsaw",
      [permute_quadrants(p) for p in itertools.permutations(range(4))],
      ", ".join(map("".join, itertools.permutations("1234"))),
      _SHIFTS,
    ),
    _group(
      "grayscale", (identity, to_grayscale), "colour, gray", (), ["grayscale"]
    ),
    _group(
      "inversion", (identity, invert), "identity, negative", (), ["solarize"]
    ),
    _group(
      "blur",
      (identity, *(gaussian_blur(size) for size in _BLURS)),
      "identity, 5 px, 9 px, 15 px",
      (),
      ["blur"],
    ),
  )
}
AUGMENTATIONS: Mapping[str, TransformationGroup | CyclicShifts] = {
  **GROUPS,
  ANY_ROLL.name: ANY_ROLL,
}


def find(name: str) -> TransformationGroup:
  """Finds a group by name, or makes the product of several joined by `*`.

  Computes nothing, so names can be checked before JAX starts. Whether the
  elements of a product differ is up to `TransformationGroup.check_elements`.

  Args:
    name: a name in `GROUPS` such as `rotation`, your own `module:NAME`, or
      several joined by `*`, such as `rotation*horizontal_flip`.

  Returns:
    The group; the same object for the same name.

  Raises:
    ValueError: an unknown name, or a product with too many elements.

  Example:
    >>> find("rotation*horizontal_flip").num_classes
    8
  """
  if not isinstance(name, str):
    raise ValueError(
      f"the name of a transformation group must be a string, got {name!r}"
    )
  return _find(name)


@functools.cache
def _find(name: str) -> TransformationGroup:
  parts = [part.strip() for part in name.split("*")]
  for part in parts:
    if part in GROUPS or ":" in part:
      continue
    if part in AUGMENTATIONS:
      raise ValueError(
        f"{part} has too many elements to predict and can only augment; to"
        f" predict, use {', '.join(GROUPS)}, or products like a*b"
      )
    of = f" in {name!r}" if part != name else ""
    raise ValueError(
      f"unknown transformation group {part!r}{of}; there are:"
      f" {', '.join(GROUPS)}, products like a*b, and module:NAME"
    )
  groups = [GROUPS[part] if part in GROUPS else _import(part) for part in parts]
  return groups[0] if len(groups) == 1 else product(*groups)


def _import(path: str) -> TransformationGroup:
  """Imports the group at `module:NAME`; ValueError if it is not a group."""
  try:
    found = pkgutil.resolve_name(path)
  except (Exception, SystemExit) as error:  # user code may raise anything
    first = (str(error).splitlines() or [""])[0]
    raise ValueError(
      f"{path} cannot be imported ({type(error).__name__}: {first})"
    ) from error
  if not isinstance(found, TransformationGroup):
    raise ValueError(
      f"{path} must be a TransformationGroup, got a {type(found).__name__}"
    )
  return found


def find_augmentation(name: str) -> TransformationGroup | CyclicShifts:
  """Finds a group to augment with: as `find`, and `any_roll` too.

  Args:
    name: a name in `AUGMENTATIONS`, or anything that `find` accepts.

  Returns:
    The group.

  Raises:
    ValueError: as in `find`.
  """
  if isinstance(name, str) and name in AUGMENTATIONS:
    return AUGMENTATIONS[name]
  try:
    return find(name)
  except ValueError as error:
    if not isinstance(name, str) or "*" in name or ":" in name:
      raise
    raise ValueError(
      f"unknown transformation group {name!r}; there are:"
      f" {', '.join(AUGMENTATIONS)}, and products like a*b"
    ) from error


def four_fold_rotation(images: chex.Array) -> tuple[jax.Array, jax.Array]:
  """Makes all four quarter turns of every image.

  Args:
    images: [N, H, H, C] of any dtype.

  Returns:
    Images [4 N, H, H, C] of the same dtype and labels int32 [4 N]; label k
    means k counter-clockwise quarter turns. All images at 0 degrees come
    first, then all at 90, 180 and 270.

  Raises:
    ValueError: the images are not square or not of rank 4.

  Example:
    >>> import jax.numpy as jnp
    >>> rotated, labels = four_fold_rotation(jnp.zeros((2, 8, 8, 3)))
    >>> rotated.shape, labels.tolist()
    ((8, 8, 8, 3), [0, 0, 1, 1, 2, 2, 3, 3])

  Reference:
    Gidaris et al. 2018 (arXiv 1803.07728); Dangovski et al. 2022, section 3.
  """
  return FOUR_FOLD_ROTATION.apply_all(images)
