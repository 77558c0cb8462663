"""Multi-layer perceptrons on the encoder's features.

One module, `MLP`, and a constructor for each head of the recipes: the
projector, SimSiam's predictor, and the head that predicts which transformation
was applied. Epsilons and initial weights are PyTorch's (Flax's layer norm
defaults to 1e-6).

References: Chen et al. (arXiv 2002.05709), Chen and He (arXiv 2011.10566),
Dangovski et al. (arXiv 2111.00899).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import inputs

NORMS = ("batch", "layer", "none")
OUTPUT_NORMS = ("none", "batch", "batch_not_affine")
EPSILON = 1e-5


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
  """Uniform in ±1/sqrt(fan_in), as `torch.nn.Linear` for weight and bias."""
  bound = fan_in**-0.5

  def init(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class MLP(nn.Module):
  """Linear layers with norms, and ReLU between them.

  Attributes:
    widths: Output size of each linear layer, the last one included.
    norm: Norm after the hidden layers: `"batch"`, `"layer"` or `"none"`.
    output_norm: Norm after the last layer: `"none"`, `"batch"`, or
      `"batch_not_affine"` (no scale, no offset).
    hidden_bias: Whether hidden linear layers have biases.
    output_bias: Whether the last linear layer has a bias.
    last_hidden_relu: False leaves out the ReLU before the last layer.
    dtype: Dtype of the computation; parameters and statistics stay float32.
    axis_name: Mapped axis over which batch norms share their statistics.
    dot_general: Replacement for `jax.lax.dot_general`.

  Raises:
    ValueError: For empty or non-positive widths, an unknown norm, or a layer
      norm over one value.

  Example:
    >>> head = MLP(widths=(32, 4), norm="layer")
    >>> features = jnp.zeros((2, 16))
    >>> variables = head.init(jax.random.key(0), features, train=False)
    >>> head.apply(variables, features, train=False).shape
    (2, 4)
  """

  widths: Sequence[int]
  norm: str = "batch"
  output_norm: str = "none"
  hidden_bias: bool = True
  output_bias: bool = True
  last_hidden_relu: bool = True
  dtype: Any = jnp.float32
  axis_name: str | None = None
  dot_general: Callable[..., jax.Array] = jax.lax.dot_general

  def __post_init__(self) -> None:
    if not self.widths or min(self.widths) < 1:
      raise ValueError(
        f"widths must be one or more positive sizes, got {self.widths!r}."
      )
    if self.norm not in NORMS:
      raise ValueError(f"norm must be one of {NORMS}, got {self.norm!r}.")
    if self.output_norm not in OUTPUT_NORMS:
      raise ValueError(
        f"output_norm must be one of {OUTPUT_NORMS}, got {self.output_norm!r}."
      )
    if self.norm == "layer" and 1 in self.widths[:-1]:
      raise ValueError(
        "hidden widths must be 2 or more with layer norms, which map a single"
        f" value to a constant; got {tuple(self.widths)!r}."
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps features `[N, F]` to `[N, widths[-1]]`, float32.

    Args:
      x: Features, `[N, F]`, floating point.
      train: Whether batch norms use the batch's statistics and update the
        running ones.

    Returns:
      The last layer's output, `[N, widths[-1]]`, float32.

    Raises:
      ValueError: If `x` does not have two axes or is not floating point.
    """
    if x.ndim != 2:
      raise ValueError(f"Features must be [N, F], got shape {x.shape}.")
    inputs.check_floating("Features", x)
    last = len(self.widths) - 1
    for i, width in enumerate(self.widths):
      x = self._dense(i, width, x.shape[-1])(x)
      norm = self._norm(i, train)
      x = x if norm is None else norm(x)
      if i < last and (i < last - 1 or self.last_hidden_relu):
        x = nn.relu(x)
    return x.astype(jnp.float32)

  def _dense(self, i: int, width: int, fan_in: int) -> nn.Dense:
    is_output = i == len(self.widths) - 1
    return nn.Dense(
      width,
      use_bias=self.output_bias if is_output else self.hidden_bias,
      dtype=self.dtype,
      kernel_init=uniform_fan_in(fan_in),
      bias_init=uniform_fan_in(fan_in),
      dot_general=self.dot_general,
      name=f"dense_{i}",
    )

  def _norm(self, i: int, train: bool) -> nn.Module | None:
    is_output = i == len(self.widths) - 1
    norm = self.output_norm if is_output else self.norm
    if norm == "none":
      return None
    if norm == "layer":
      return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=f"norm_{i}")
    affine = norm == "batch"
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=EPSILON,
      dtype=self.dtype,
      use_scale=affine,
      use_bias=affine,
      axis_name=self.axis_name,
      name=f"norm_{i}",
    )


class SideBySide(nn.Module):
  """Several heads on the same features, with concatenated outputs.

  Attributes:
    heads: Modules that map `[N, F]` to `[N, K]`, each with its own K.
  """

  heads: Sequence[nn.Module]

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps features `[N, F]` to `[N, sum of all K]`, float32."""
    return jnp.concatenate([head(x, train=train) for head in self.heads], -1)


def projector(
  widths: Sequence[int],
  *,
  last_norm: str = "batch_not_affine",
  bias: bool = False,
  **common: Any,
) -> MLP:
  """Makes the projector, with batch norm and ReLU between the layers.

  Args:
    widths: Size of every layer; (2048, 2048) in the CIFAR-10 recipes.
    last_norm: Norm after the last layer; see `MLP.output_norm`.
    bias: Whether the linear layers have biases.
    **common: `dtype`, `axis_name` and `dot_general` of `MLP`.

  Returns:
    The module.
  """
  return MLP(
    tuple(widths),
    output_norm=last_norm,
    hidden_bias=bias,
    output_bias=bias,
    **common,
  )


def predictor(hidden: int, out: int, **common: Any) -> MLP:
  """Makes SimSiam's predictor: a hidden layer with batch norm, a plain output.

  Args:
    hidden: Size of the hidden layer (no bias); 512 in the recipes.
    out: Size of the output, the same as the projector's.
    **common: `dtype`, `axis_name` and `dot_general` of `MLP`.

  Returns:
    The module.
  """
  return MLP((hidden, out), hidden_bias=False, **common)


def transformation_head(
  hidden_widths: Sequence[int],
  num_classes: int | Mapping[str, int],
  *,
  last_hidden_relu: bool = True,
  hidden_norm: str = "layer",
  **common: Any,
) -> nn.Module:
  """Makes the head that predicts the transformation, with norms and biases.

  Args:
    hidden_widths: Sizes of the hidden layers; (2048, 2048) for CIFAR-10, empty
      for a linear head.
    num_classes: Number of transformations in the group. A mapping from names to
      numbers makes a separate head for each of several groups.
    last_hidden_relu: False in the SimSiam and ImageNet recipes, which have no
      ReLU after the last hidden layer.
    hidden_norm: Norm after the hidden layers: `"layer"` or `"batch"`.
    **common: `dtype`, `axis_name` and `dot_general` of `MLP`.

  Returns:
    The module.
  """
  if isinstance(num_classes, int):
    num_classes = {"": num_classes}
  is_single = len(num_classes) == 1
  made = [
    MLP(
      (*hidden_widths, size),
      norm=hidden_norm,
      last_hidden_relu=last_hidden_relu,
      name=None if is_single else name,
      **common,
    )
    for name, size in num_classes.items()
  ]
  return made[0] if is_single else SideBySide(tuple(made))


def classifier(num_classes: int, *, dtype: Any = jnp.float32) -> nn.Dense:
  """Makes a linear layer on the encoder's features, [N, F] to [N, classes].

  Args:
    num_classes: Number of classes.
    dtype: Dtype of the computation.

  Returns:
    The module.
  """
  # Uniform in ±1/sqrt(fan_in), as in `torch.nn.Linear`.
  kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  return nn.Dense(num_classes, dtype=dtype, kernel_init=kernel)
