"""Equivariant self-supervised learning (E-SSL) in JAX.

  run = essl_jax.train("cifar_simclr:small", workdir="runs/small")
  encoder = essl_jax.load("runs/small")
  features = encoder(["a.jpg", "b.png"])

docs/python.md says what is public and stable.

Reference: Dangovski et al., "Equivariant Self-Supervised Learning: Encouraging
Equivariance in Representations", ICLR 2022 (arXiv 2111.00899).
"""

import importlib

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's constant takes milliseconds to import
if TYPE_CHECKING:
  from essl_jax.api.embeddings import Embeddings, embed
  from essl_jax.api.encoders import Encoder, load
  from essl_jax.api.preparing import Preprocess
  from essl_jax.api.runs import Run, evaluate, recipes, train
  from essl_jax.errors import UsageError

__all__ = [
  "Embeddings",
  "Encoder",
  "Preprocess",
  "Run",
  "UsageError",
  "embed",
  "evaluate",
  "load",
  "recipes",
  "train",
]

_MODULES = {
  "Embeddings": "api.embeddings",
  "Encoder": "api.encoders",
  "Preprocess": "api.preparing",
  "Run": "api.runs",
  "UsageError": "errors",
  "embed": "api.embeddings",
  "evaluate": "api.runs",
  "load": "api.encoders",
  "recipes": "api.runs",
  "train": "api.runs",
}

if not TYPE_CHECKING:  # with __getattr__, type checkers would accept any name

  def __getattr__(name):
    """Imports a name on first use, so `import essl_jax` stays fast."""
    if name not in _MODULES:
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    found = globals()[name] = getattr(module, name)
    return found

  def __dir__():
    """All names, imported or not."""
    return sorted({*globals(), *__all__})
