"""PyTorch weights in and out; `python -m essl_jax.convert` is the program."""

from essl_jax.convert.torch_names import (
  architecture,
  from_torch_mlp,
  from_torch_resnet,
  to_torch_resnet,
)

__all__ = [
  "architecture",
  "from_torch_mlp",
  "from_torch_resnet",
  "to_torch_resnet",
]
