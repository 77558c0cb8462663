"""Counts the arithmetic of products and convolutions in a compiled program."""

from collections.abc import Mapping
import math
import re

import hlo_text
import jaxpr_flops

_DIMENSIONS = re.compile(r"\w+\[([\d,]*)\]")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_DEPTH = re.compile(
  r'(?:lhs_contracting_dims=\{|"lhs_contracting_dimensions":\[)([^\]}]*)'
)
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def target(line: hlo_text.Instruction) -> str:
  """The library function that a line calls, or an empty string."""
  found = _TARGET.search(line.rest) if line.opcode == "custom-call" else None
  return found[1] if found else ""


def count(line: hlo_text.Instruction, shapes: Mapping[str, str]) -> int:
  """Counts the arithmetic of one line.

  Args:
    line: a line of a compiled program.
    shapes: shapes of all lines by their names, as text.

  Returns:
    Multiplications and additions, two for each pair, of a product or a
    convolution, including calls of NVIDIA's libraries; 0 for other operations.
    Products with padding are left out.
  """
  library = target(line)
  is_dot = line.opcode == "dot" or "gemm" in library or "matmul" in library
  is_convolution = line.opcode == "convolution" or "conv" in library
  if not (is_dot or is_convolution):
    return 0
  read = [
    _dimensions(shapes.get(name, "")) for name in hlo_text.operands(line)[:2]
  ]
  if len(read) < 2:
    return 0
  first, second = read
  result = _dimensions(line.shape)
  if is_dot:
    found = _DEPTH.search(line.rest)
    axes = re.findall(r"\d+", found[1]) if found else []
    return 2 * math.prod(result) * math.prod(first[int(i)] for i in axes)
  # cuDNN describes gradients by the forward pass that they belong to.
  if "BackwardInput" in library:
    return _convolution(line.rest, result, second, first)
  if "BackwardFilter" in library:
    return _convolution(line.rest, first, result, second)
  return _convolution(line.rest, first, second, result)


def _dimensions(shape: str) -> list[int]:
  """Sizes of the first array in a shape such as `(f32[8,2]{1,0}, u8[0]{0})`."""
  found = _DIMENSIONS.search(shape)
  return [int(x) for x in found[1].split(",") if x] if found else []


def _convolution(
  text: str, images: list[int], kernel: list[int], out: list[int]
) -> int:
  labels = _LABELS.search(text)
  if not labels:
    return 0
  window = _WINDOW.search(text)
  settings = dict(
    word.split("=", 1) for word in (window[1].split() if window else [])
  )
  axes = sum(label.isdigit() for label in labels[1])
  setting = lambda name, default: settings.get(name, default).split("x")
  strides = setting("stride", "x".join("1" * axes))
  padding = setting("pad", "x".join(["0_0"] * axes))
  image_dilation = setting("lhs_dilate", "x".join("1" * axes))
  kernel_dilation = setting("rhs_dilate", "x".join("1" * axes))
  pairs = 1
  for axis in range(axes):
    size = lambda shape, names, axis=axis: shape[names.index(str(axis))]
    pairs *= jaxpr_flops.pairs_along(
      size(images, labels[1]),
      size(kernel, labels[2]),
      size(out, labels[3]),
      stride=int(strides[axis]),
      before=int(padding[axis].split("_")[0]),
      image_dilation=int(image_dilation[axis]),
      kernel_dilation=int(kernel_dilation[axis]),
    )
  depth = kernel[labels[2].index("i")]
  batch, features = out[labels[3].index("b")], out[labels[3].index("f")]
  return 2 * batch * features * depth * pairs
