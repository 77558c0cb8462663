"""The convolutional network for unit cells, and its density-of-states head.

At width 64, sizes match the original; every layer scales with the width.

Reference: Dangovski et al. 2022 (arXiv 2111.00899), section 5; Loh et al. 2022
(arXiv 2110.08406).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax.models.heads import MLP, uniform_fan_in
from essl_jax.photonics.cells import PIXELS
from essl_jax.photonics.density import NUM_TARGETS

_KERNEL = 7
# For each stage: channels as multiples of the width, and the pooling after it.
_STAGES = ((1, 2), (4, 4), (4, 4))
_FEATURES = 16
_WIDEST = 10**6


class PhotonicCNN(nn.Module):
  """Three 7x7 convolutions with batch norm and max-pooling, two dense layers.

  Parameters and running statistics are float32 for every `dtype`.

  Attributes:
    width: channels of the first convolution; 64 in the paper.
    dtype: dtype of the computation.
    axis_name: mapped axis over which batch norms share their statistics.
    conv_general_dilated: replacement for `jax.lax.conv_general_dilated`.

  Raises:
    ValueError: the width is below 1 or above a million.

  Example:
    >>> model = PhotonicCNN(width=2)
    >>> cells = jnp.zeros((3, 32, 32, 1))
    >>> variables = model.init(jax.random.key(0), cells, train=False)
    >>> model.apply(variables, cells, train=False).shape
    (3, 32)
  """

  width: int = 64
  dtype: Any = jnp.float32
  axis_name: str | None = None
  conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated

  def __post_init__(self) -> None:
    if not 1 <= self.width <= _WIDEST:
      raise ValueError(f"width must be 1 to {_WIDEST}, got {self.width!r}")
    super().__post_init__()

  @property
  def num_features(self) -> int:
    """Size F of the features, 16 times the width."""
    return _FEATURES * self.width

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps unit cells to features.

    Args:
      x: scaled permittivities, [N, 32, 32, 1], floating point.
      train: True normalises with the batch's statistics and updates the running
        ones (collection `batch_stats`); False uses the running ones.

    Returns:
      Features, [N, F], float32.

    Raises:
      ValueError: the cells do not have 32 x 32 pixels and one channel.
    """
    if x.ndim != 4 or x.shape[1:] != (PIXELS, PIXELS, 1):
      raise ValueError(
        f"unit cells must be [N, {PIXELS}, {PIXELS}, 1], got shape {x.shape}"
      )
    for i, (channels, pool) in enumerate(_STAGES, start=1):
      x = self._conv(i, channels * self.width, x.shape[-1])(x)
      x = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=self.dtype,
        axis_name=self.axis_name,
        name=f"bn{i}",
      )(x)
      x = nn.max_pool(nn.relu(x), (pool, pool), strides=(pool, pool))
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(self._dense(1, x.shape[-1])(x))
    return self._dense(2, x.shape[-1])(x).astype(jnp.float32)

  def _conv(self, i: int, channels: int, inputs: int) -> nn.Conv:
    padding = (_KERNEL // 2, _KERNEL // 2)
    initializer = uniform_fan_in(inputs * _KERNEL**2)
    return nn.Conv(
      channels,
      (_KERNEL, _KERNEL),
      padding=(padding, padding),
      dtype=self.dtype,
      kernel_init=initializer,
      bias_init=initializer,
      conv_general_dilated=self.conv_general_dilated,
      name=f"conv{i}",
    )

  def _dense(self, i: int, inputs: int) -> nn.Dense:
    initializer = uniform_fan_in(inputs)
    return nn.Dense(
      self.num_features,
      dtype=self.dtype,
      kernel_init=initializer,
      bias_init=initializer,
      name=f"dense{i}",
    )


def density_head(width: int = 64) -> MLP:
  """Makes the head for a density of states: four layers with ReLU between them.

  Args:
    width: as in `PhotonicCNN`.

  Returns:
    The module, which maps features [N, F] to [N, 400], float32.
  """
  hidden = (_FEATURES * width, _FEATURES * width, _FEATURES * width // 2)
  return MLP(widths=(*hidden, NUM_TARGETS), norm="none")


class DensityRegressor(nn.Module):
  """An encoder and a head for a density of states.

  Attributes:
    encoder: maps unit cells [N, 32, 32, 1] to features.
    head: maps features to densities, such as `density_head`.
  """

  encoder: nn.Module
  head: nn.Module

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps unit cells [N, 32, 32, 1] to densities [N, 400], float32."""
    return self.head(self.encoder(x, train=train), train=train)


PART = PhotonicCNN
