"""Imports and exports PyTorch weights: `python -m essl_jax.convert`."""

import sys

if sys.argv[:1] == ["-m"]:  # Python imports this before the program
  import essl_jax.start  # noqa: F401

# isort: split
from essl_jax.convert.torch_names import (
  architecture,
  from_torch_mlp,
  from_torch_resnet,
  to_torch_resnet,
)
from essl_jax.convert.torch_vit import from_torch_vit, to_torch_vit

__all__ = [
  "architecture",
  "from_torch_mlp",
  "from_torch_resnet",
  "from_torch_vit",
  "to_torch_resnet",
  "to_torch_vit",
]
