"""Counts the arithmetic of a step's matrix products and convolutions.

XLA's own count includes the body of a loop only once, however often it runs.
This count follows the program as JAX traces it, before any compiler, including
loops and recomputed blocks.
"""

from collections.abc import Iterator, Sequence
import math
from typing import Any

import jax
import numpy as np


def matrix_flops(jaxpr: Any, wanted: Sequence[bool] | None = None) -> int:
  """Counts multiplications and additions of all dots and convolutions.

  Operations that no result needs are left out, as compilers do: for example,
  the gradient with respect to a step's images, which a convolution with a
  custom gradient also traces.

  Args:
    jaxpr: from `jax.make_jaxpr`, or the `jaxpr` of `jax.jit(...).trace(...)`.
      Inside `shard_map`, shapes are those of one device, and so is the count.
      The body of a `while` of unknown length counts once; all branches of a
      `cond` count.
    wanted: which of its results are needed; by default all.

  Returns:
    Operations; a multiplication with an addition counts as two. Products with
    padding and with the holes of dilated images are left out.
  """
  total = 0
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  wanted = [True] * len(jaxpr.outvars) if wanted is None else wanted
  results = zip(jaxpr.outvars, wanted, strict=True)
  needed = {id(x) for x, is_wanted in results if is_wanted}
  for equation in reversed(jaxpr.eqns):
    used = [id(x) in needed for x in equation.outvars]
    if not any(used) and not equation.effects:
      continue
    needed |= {id(x) for x in equation.invars}
    name = equation.primitive.name
    if name == "dot_general":
      total += _dot(equation)
    elif name == "conv_general_dilated":
      total += _convolution(equation)
    else:
      times = equation.params["length"] if name == "scan" else 1
      for inner in _inner(equation.params):
        # A result of a loop may be the input of its next iteration.
        is_call = name not in ("scan", "while")
        is_same = is_call and len(inner.out_avals) == len(used)
        total += times * matrix_flops(inner, used if is_same else None)
  return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The programs that an operation runs."""
  kinds = (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)
  for value in params.values():
    values = value if isinstance(value, (tuple, list)) else (value,)
    yield from (x for x in values if isinstance(x, kinds))


def _dot(equation: Any) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  depth = math.prod(shape[axis] for axis in contracted)
  return 2 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
  params = equation.params
  numbers = params["dimension_numbers"]
  images, kernel = (x.aval.shape for x in equation.invars)
  out = equation.outvars[0].aval.shape
  pairs = 1
  for axis in range(len(params["window_strides"])):
    pairs *= pairs_along(
      images[numbers.lhs_spec[2 + axis]],
      kernel[numbers.rhs_spec[2 + axis]],
      out[numbers.out_spec[2 + axis]],
      stride=params["window_strides"][axis],
      before=params["padding"][axis][0],
      image_dilation=params["lhs_dilation"][axis],
      kernel_dilation=params["rhs_dilation"][axis],
    )
  depth = kernel[numbers.rhs_spec[1]]
  batch, features = (out[axis] for axis in numbers.out_spec[:2])
  return 2 * batch * features * depth * pairs


def pairs_along(
  inputs: int,
  kernel: int,
  outputs: int,
  *,
  stride: int,
  before: int,
  image_dilation: int,
  kernel_dilation: int,
) -> int:
  """Number of products with real inputs along one axis."""
  starts = np.arange(outputs)[:, None] * stride - before
  places = starts + np.arange(kernel)[None] * kernel_dilation
  real = (places >= 0) & (places <= (inputs - 1) * image_dilation)
  return int(np.sum(real & (places % image_dilation == 0)))
