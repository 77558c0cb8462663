"""Vision transformers: patches of an image as tokens that attend to each other.

Architecture and names are those of timm's `VisionTransformer` (norms before
attention and perceptron, a class token, biases everywhere, exact GELU), so
PyTorch weights carry over. Note two pitfalls:

- Stochastic depth needs random keys in training: pass `image_keys`, one per
  image, or `rngs={"dropout": key}` to `apply`.
- Weight decay would shrink a frozen patch projection, although its gradients
  are zero: pass `frozen_parameters` to `optim.make_optimizer`.

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
from essl_jax.models.layers import attention, patches, transformer

Positions = Literal["learned", "sincos"]
Pool = Literal["token", "mean"]
# Larger networks are typing errors, and would never finish tracing.
_LARGEST = {
  "image_size": 2**14,
  "patch": 2**14,
  "width": 10**6,
  "depth": 400,
  "heads": 10**6,
}
_LARGEST_RATIO = 1000


class ViT(nn.Module):
  """A vision transformer without its classifier.

  The defaults make a ViT-S/16. Ti has width 192 and 3 heads; B has width 768
  and 12 heads. Use patches of 4 for images of 32 pixels. MoCo v3's ViT-S has 12
  heads, fixed positions and a frozen projection. Parameters, the softmax and
  the norms' reductions are float32 for every `dtype`.

  Attributes:
    image_size: Side in pixels of the images that positions are made for. At
      other sizes, learned positions are interpolated and fixed positions are
      recomputed.
    patch: Side of a patch in pixels. It must divide the sides of all images.
    width: Number of channels of a token and of the features: a multiple of
      `heads`, and of 4 with fixed positions.
    depth: Number of blocks.
    heads: Number of attention heads.
    mlp_ratio: Width of the perceptrons' hidden layers, as a multiple of
      `width`.
    positions: `learned`, or `sincos` for fixed sines and cosines.
    frozen_patch_projection: Whether the patch projection keeps its initial
      weights. No gradient reaches the projection or the images.
    pool: The features to return: the class `token`, or the `mean` of the
      patches, taken before the last norm.
    stochastic_depth: Probability in training that an image skips a part of the
      last block; it rises linearly from 0 at the first block. A target network
      skips nothing.
    rematerialize: Saves memory: keeps only the blocks' inputs for the backward
      pass and computes each block twice.
    dtype: Dtype of the computation.
    axis_name: Not used: images are independent.
    dot_general: Replacement for `jax.lax.dot_general` in linear layers.
    dot_product_attention: Replacement for `jax.nn.dot_product_attention`.

  Raises:
    ValueError: For sizes that are below 1, unreasonably large or not multiples
      as stated, a rate outside [0, 1), or unknown positions or pool.

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
  dot_product_attention: attention.Attend = jax.nn.dot_product_attention

  def __post_init__(self) -> None:
    for name, most in _LARGEST.items():
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
      if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}.")
    if self.width < 2:
      raise ValueError(
        "width must be 2 or more, because a layer norm maps a single value to a"
        f" constant; got {self.width}."
      )
    inputs.check_multiple("image_size", self.image_size, self.patch, "patch")
    inputs.check_multiple("width", self.width, self.heads, "heads")
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
      inputs.check_multiple("width of sine-cosine positions", self.width, 4)
    super().__post_init__()

  @property
  def num_features(self) -> int:
    """Size F of the features, which is the width."""
    return self.width

  @property
  def frozen_parameters(self) -> tuple[str, ...]:
    """Names of parameters that optimisers must not change or decay."""
    return ("patch_embed",) if self.frozen_patch_projection else ()

  def __call__(
    self, x: jax.Array, *, train: bool, image_keys: jax.Array | None = None
  ) -> jax.Array:
    """Maps images to their features.

    Args:
      x: Normalised images, `[N, H, W, C]`, floating point.
      train: Whether to skip parts of blocks at random (`stochastic_depth`).
      image_keys: Random keys `[N]` that decide what each image skips; drawn
        from the collection `dropout` if absent.

    Returns:
      Features, `[N, F]`, float32.

    Raises:
      ValueError: If `x` does not have four axes or is not floating point, if
        patches do not divide it, or if the number of keys is wrong.
    """
    return self.inner_features(x, train=train, image_keys=image_keys)[0]

  def inner_features(
    self, x: jax.Array, *, train: bool, image_keys: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the features of `__call__`, and the tokens after each block.

    Returns:
      Features, and tokens `[N, 1 + patches, F]` by block, such as `blocks_0`:
      the class token first, before the last norm.
    """
    kind = f"pooled_{self.pool}"
    return self._encode(x, train=train, image_keys=image_keys, kind=kind)

  def evaluation_features(
    self,
    x: jax.Array,
    *,
    kind: str,
    train: bool = False,
    image_keys: jax.Array | None = None,
  ) -> jax.Array:
    """Returns features other than those of `__call__`, after the last norm.

    Args:
      x: As in `__call__`.
      kind: `token` is the class token, `mean` the mean of the patches, and
        `last_4` the class tokens of the last four blocks, in order.
      train: As in `__call__`.
      image_keys: As in `__call__`.

    Returns:
      Features, `[N, F]` or `[N, 4 * F]`, float32.

    Raises:
      ValueError: For an unknown kind.

    Reference:
      For `last_4`, Caron et al. 2021 (arXiv 2104.14294), appendix F.2.
    """
    known = ["token", "mean", *(f"last_{i + 1}" for i in range(self.depth))]
    if kind not in known:
      raise ValueError(
        f"features must be output, token, mean, or last_1 to {known[-1]}; got"
        f" {kind!r}"
      )
    return self._encode(x, train=train, image_keys=image_keys, kind=kind)[0]

  @nn.compact
  def _encode(
    self, x: jax.Array, *, train: bool, image_keys: Any, kind: str
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns features of one kind, and the tokens after each block."""
    image_keys = self._keys(x, train, image_keys)
    x = self._embed(x)

    def run(block: nn.Module, x: jax.Array, keys: Any) -> jax.Array:
      return block(x, keys)

    run = nn.remat(run) if self.rematerialize and train else run
    rates = np.linspace(0, self.stochastic_depth, self.depth)
    inner = {}
    for i, rate in enumerate(rates):
      block = transformer.Block(
        dtype=self.dtype,
        dot_general=self.dot_general,
        dot_product_attention=self.dot_product_attention,
        heads=self.heads,
        hidden=int(self.width * self.mlp_ratio),
        stochastic_depth=float(rate),
        name=f"blocks_{i}",
      )
      keys = image_keys
      if image_keys is not None:
        keys = jax.vmap(jax.random.fold_in, (0, None))(image_keys, i)
      x = inner[f"blocks_{i}"] = run(block, x, keys)
    norm = nn.LayerNorm(epsilon=transformer.EPSILON, name="norm")
    return transformer.pool(list(inner.values()), norm, kind), inner

  def _keys(self, x: jax.Array, train: bool, image_keys: Any) -> Any:
    """Returns a random key per image; None if nothing is drawn."""
    if not (train and self.stochastic_depth):
      return None
    if image_keys is None:
      return jax.random.split(self.make_rng("dropout"), len(x))
    if image_keys.shape[:1] != x.shape[:1]:
      raise ValueError(
        f"image_keys must have one key for each of {len(x)} images, got shape"
        f" {image_keys.shape}."
      )
    return image_keys

  def _embed(self, images: jax.Array) -> jax.Array:
    """Maps images to tokens with positions, [N, 1 + patches, D]."""
    x = patches.split(images, self.patch)
    rows, columns = (side // self.patch for side in images.shape[1:3])
    # Patches do not overlap, so their convolution is one matrix product.
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
    """Returns positions of the class token and a patch grid, [1, T, D]."""
    if self.positions == "sincos":
      fixed = patches.sincos_positions(rows, columns, self.width)
      # MoCo v3's class token has no position.
      return jnp.pad(fixed, ((1, 0), (0, 0)))[None]
    side = self.image_size // self.patch
    learned = self.param(
      "pos_embed",
      transformer.initial_weights,
      (1, 1 + side**2, self.width),
    )
    return patches.interpolate(learned, side, rows, columns)


PART = ViT
