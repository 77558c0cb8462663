"""Vision transformers: patches of an image as tokens that attend to each other.

The architecture is that of timm's `VisionTransformer` (norms before attention
and perceptron, a class token, biases everywhere, exact GELU), with its names,
so that PyTorch weights carry over. Two things a user may trip over:

- Stochastic depth needs random keys when it trains: pass `image_keys`, one per
  image, or `rngs={"dropout": key}` to `apply`.
- A weight decay shrinks a frozen patch projection, although its gradients are
  zero: hand `frozen_parameters` to `optim.make_optimizer`.

References: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021
(arXiv 2010.11929). Chen et al., "An Empirical Study of Training
Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.02057), for fixed
positions and the frozen projection.
"""

from collections.abc import Callable
import typing
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs
from essl_jax.models.heads import uniform_fan_in
from essl_jax.models.layers import transformer

Positions = Literal["learned", "sincos"]
Pool = Literal["token", "mean"]
# Beyond them a network is a slip of the finger, and never traced to its end.
_LARGEST = {
  "image_size": 2**14,
  "patch": 2**14,
  "width": 10**6,
  "depth": 400,
  "heads": 10**6,
}
_LARGEST_RATIO = 1000
_LONGEST_PERIOD = 10_000  # over 2 pi, in patches


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
  """Fixed positions of a grid: sines and cosines of both indices.

  The first half of the channels is of the row, the second of the column; each
  has the sines of all frequencies, then their cosines.

  Args:
    rows: Number of rows of patches.
    columns: Number of columns of patches.
    width: Number of channels, a multiple of 4.

  Returns:
    Positions by rows, `[rows * columns, width]`, float32, in [-1, 1].

  Raises:
    ValueError: If the width is no multiple of 4.

  Reference:
    Chen et al. 2021 (arXiv 2104.02057), section 5, "Position embedding".
  """
  _check_multiple("width of sine-cosine positions", width, 4)
  frequencies = _LONGEST_PERIOD ** -(np.arange(width // 4) / (width // 4))
  angles = np.indices((rows, columns)).reshape(2, -1, 1) * frequencies
  parts = [wave(index) for index in angles for wave in (np.sin, np.cos)]
  return np.concatenate(parts, axis=-1).astype(np.float32)


class ViT(nn.Module):
  """A vision transformer without its classifier.

  The defaults are those of ViT-S/16; MoCo v3's has 12 heads, fixed positions
  and a frozen projection. Parameters, the softmax and the norms' reductions
  are float32 whatever `dtype` is.

  Attributes:
    image_size: Side in pixels of the images that the positions are laid out
      for. At other sizes, learned positions are interpolated and fixed ones
      computed again.
    patch: Side of a patch in pixels. It divides the sides of all images.
    width: Number of channels of a token, and of the features: a multiple of
      `heads`, and of 4 with fixed positions.
    depth: Number of blocks.
    heads: Number of attention heads.
    mlp_ratio: Width of the perceptrons' hidden layers, as a multiple of
      `width`.
    positions: `learned`, or `sincos` for fixed sines and cosines.
    frozen_patch_projection: Whether the patch projection keeps its initial
      weights. No gradient reaches it, nor the images.
    pool: What the features are: the class `token`, or the `mean` of the
      patches, taken before the last norm.
    stochastic_depth: Probability in training of leaving out the last block's
      parts for an image; it rises linearly from 0 at the first block.
    rematerialize: Save memory: keep only the blocks' inputs for the backward
      pass and compute each block twice.
    dtype: What is computed in.
    axis_name: Not used: images do not see each other.
    dot_general: Stands in for `jax.lax.dot_general` in linear layers.

  Raises:
    ValueError: For sizes below 1, beyond reason or that do not divide each
      other as said, a rate outside of [0, 1), or unknown positions or pool.

  Example:
    >>> model = ViT(image_size=32, patch=8, width=16, depth=2, heads=2)
    >>> images = jnp.zeros((2, 32, 32, 3))
    >>> variables = model.init(jax.random.key(0), images, train=False)
    >>> model.apply(variables, images, train=False).shape
    (2, 16)
  """

  image_size: int = 224
  patch: int = 16
  width: int = 384
  depth: int = 12
  heads: int = 6
  mlp_ratio: float = 4.0
  positions: Positions = "learned"
  frozen_patch_projection: bool = False
  pool: Pool = "token"
  stochastic_depth: float = 0.0
  rematerialize: bool = False
  dtype: Any = jnp.float32
  axis_name: str | None = None
  dot_general: Callable[..., jax.Array] = jax.lax.dot_general

  def __post_init__(self) -> None:
    for name, most in _LARGEST.items():
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
      if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}.")
    if self.width < 2:
      raise ValueError(
        "width must be 2 or more, for a layer norm makes a constant of one"
        f" value; got {self.width}."
      )
    _check_multiple("image_size", self.image_size, self.patch, "patch")
    _check_multiple("width", self.width, self.heads, "heads")
    if self.mlp_ratio > _LARGEST_RATIO:
      raise ValueError(
        f"mlp_ratio must be at most {_LARGEST_RATIO}, got {self.mlp_ratio}."
      )
    if int(self.width * self.mlp_ratio) < 1:
      raise ValueError(f"mlp_ratio must be above 0, got {self.mlp_ratio}.")
    if not 0 <= self.stochastic_depth < 1:
      raise ValueError(
        f"stochastic_depth must be in [0, 1), got {self.stochastic_depth}."
      )
    for name, kinds in (("positions", Positions), ("pool", Pool)):
      if getattr(self, name) not in typing.get_args(kinds):
        raise ValueError(
          f"{name} must be one of {typing.get_args(kinds)}, got"
          f" {getattr(self, name)!r}."
        )
    if self.positions == "sincos":
      _check_multiple("width of sine-cosine positions", self.width, 4)
    super().__post_init__()

  @property
  def num_features(self) -> int:
    """Size F of the features: the width."""
    return self.width

  @property
  def frozen_parameters(self) -> tuple[str, ...]:
    """Names of what no optimiser may change, not even by a decay."""
    return ("patch_embed",) if self.frozen_patch_projection else ()

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool, image_keys: jax.Array | None = None
  ) -> jax.Array:
    """Maps images to their features.

    Args:
      x: Normalised images, `[N, H, W, C]`, floating point.
      train: Leave out parts of the blocks at random (`stochastic_depth`).
      image_keys: A random key per image, `[N]`, which says what is left out
        for it; drawn from the collection `dropout` if absent.

    Returns:
      Features, `[N, F]`, float32.

    Raises:
      ValueError: If `x` does not have four axes or is not floating point, if
        patches do not divide it, or for another number of keys.
    """
    if not (train and self.stochastic_depth):
      image_keys = None
    elif image_keys is None:
      image_keys = jax.random.split(self.make_rng("dropout"), len(x))
    elif image_keys.shape[:1] != x.shape[:1]:
      raise ValueError(
        f"image_keys must be one for each of {len(x)} images, got shape"
        f" {image_keys.shape}."
      )
    x = self._embed(x)

    def run(block: nn.Module, x: jax.Array, keys: Any) -> jax.Array:
      return block(x, keys)

    run = nn.remat(run) if self.rematerialize and train else run
    rates = np.linspace(0, self.stochastic_depth, self.depth)
    for i, rate in enumerate(rates):
      block = transformer.Block(
        dtype=self.dtype,
        dot_general=self.dot_general,
        heads=self.heads,
        hidden=int(self.width * self.mlp_ratio),
        stochastic_depth=float(rate),
        name=f"blocks_{i}",
      )
      keys = image_keys
      if image_keys is not None:
        keys = jax.vmap(jax.random.fold_in, (0, None))(image_keys, i)
      x = run(block, x, keys)
    x = x.astype(jnp.float32)
    x = x[:, 0] if self.pool == "token" else jnp.mean(x[:, 1:], axis=1)
    return nn.LayerNorm(epsilon=transformer.EPSILON, name="norm")(x)

  def _embed(self, x: jax.Array) -> jax.Array:
    """Images to tokens with positions, [N, 1 + patches, D]."""
    if x.ndim != 4:
      raise ValueError(f"Images must be [N, H, W, C], got shape {x.shape}.")
    inputs.check_floating("Images", x)
    n, height, width, channels = x.shape
    _check_multiple("image height", height, self.patch, "patch")
    _check_multiple("image width", width, self.patch, "patch")
    rows, columns = height // self.patch, width // self.patch
    # One axis at a time: JAX cannot tell how others would be sharded.
    x = x.reshape(n, rows, self.patch, width, channels)
    x = x.reshape(n, rows, self.patch, columns, self.patch, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, rows * columns, self.patch, self.patch, channels)
    x = x.reshape(n, rows * columns, -1)
    # Patches do not overlap: their convolution is one product of matrices.
    init = uniform_fan_in(x.shape[-1])
    x = nn.Dense(
      self.width,
      dtype=self.dtype,
      kernel_init=init,
      bias_init=init,
      dot_general=self.dot_general,
      name="patch_embed",
    )(x)
    x = jax.lax.stop_gradient(x) if self.frozen_patch_projection else x
    token = self.param(
      "cls_token",
      nn.initializers.normal(1e-6, jnp.float32),
      (1, 1, self.width),
    )
    token = jnp.zeros_like(x[:, :1]) + token.astype(x.dtype)
    positions = self._positions(rows, columns).astype(x.dtype)
    return jnp.concatenate([token, x], axis=1) + positions

  def _positions(self, rows: int, columns: int) -> jax.Array:
    """Positions of the class token and of a grid of patches, [1, T, D]."""
    if self.positions == "sincos":
      fixed = sincos_positions(rows, columns, self.width)
      # MoCo v3's class token has no position.
      return jnp.pad(fixed, ((1, 0), (0, 0)))[None]
    side = self.image_size // self.patch
    learned = self.param(
      "pos_embed",
      transformer.initial_weights,
      (1, 1 + side**2, self.width),
    )
    if (rows, columns) == (side, side):
      return learned
    grid = learned[:, 1:].reshape(1, side, side, self.width)
    size = (1, rows, columns, self.width)
    grid = jax.image.resize(grid, size, "bicubic", antialias=True)
    grid = grid.reshape(1, rows * columns, self.width)
    return jnp.concatenate([learned[:, :1], grid], axis=1)


def _check_multiple(
  name: str, value: int, factor: int, factor_name: str = ""
) -> None:
  if value < 1 or value % factor:
    wanted = f"{factor_name} {factor}".strip()
    raise ValueError(f"{name} must be a multiple of {wanted}, got {value}.")


PART = ViT
