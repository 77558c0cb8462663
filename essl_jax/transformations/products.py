"""Products of groups."""

import itertools
import math

from essl_jax.transformations.group import Element, TransformationGroup

_MOST_ELEMENTS = 128


def product(*factors: TransformationGroup) -> TransformationGroup:
  """Makes the product of groups; the first factor's element is applied first.

  Does not check that all elements differ; see `check_elements`.

  Args:
    *factors: one or more groups.

  Returns:
    The group of all combinations, named `a*b`. For factors with K and L
    elements, label k is element k // L of the first and k % L of the second.

  Raises:
    ValueError: the product would have more than 128 elements, a factor is not a
      TransformationGroup, or there is no factor.
  """
  if not factors or not all(
    isinstance(factor, TransformationGroup) for factor in factors
  ):
    raise ValueError(
      f"a product needs one or more TransformationGroups, got {factors}"
    )
  name = "*".join(factor.name for factor in factors)
  count = math.prod(factor.num_classes for factor in factors)
  if count > _MOST_ELEMENTS:
    raise ValueError(
      f"the product {name} has {count} elements, more than {_MOST_ELEMENTS}:"
      " leave one factor out"
    )

  def compose(first: Element, second: Element) -> Element:
    return lambda images: second(first(images))

  elements = factors[0].elements
  for factor in factors[1:]:
    elements = tuple(compose(f, g) for f in elements for g in factor.elements)
  names = itertools.product(*(factor.names for factor in factors))
  return TransformationGroup(
    name, elements, factors, tuple(" ".join(x) for x in names)
  )
