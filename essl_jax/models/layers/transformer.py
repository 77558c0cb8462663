"""Transformer blocks: attention and perceptrons, each after a layer norm.

Names, epsilons and initial weights match timm's `VisionTransformer`.

Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021
(arXiv 2010.11929), equations 2 and 3.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax.models.layers import attention

EPSILON = 1e-6  # of layer norms
# timm truncates at 2, which is 100 standard deviations: no difference here.
initial_weights = nn.initializers.normal(0.02, jnp.float32)


class _Layers(nn.Module):
  """Linear layers and norms shared by all parts.

  Attributes:
    dtype: Dtype of the computation; parameters stay float32.
    dot_general: Replacement for `jax.lax.dot_general` in linear layers.
  """

  dtype: Any = jnp.float32
  dot_general: Callable[..., jax.Array] = jax.lax.dot_general

  def dense(self, features: int, name: str) -> nn.Dense:
    return nn.Dense(
      features,
      dtype=self.dtype,
      kernel_init=initial_weights,
      dot_general=self.dot_general,
      name=name,
    )

  def norm(self, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=name)


class Attention(_Layers):
  """Self-attention with several heads.

  Attributes:
    heads: Number of heads, which share the channels.
    dot_product_attention: Replacement for `jax.nn.dot_product_attention`.
  """

  heads: int = 6
  dot_product_attention: attention.Attend = jax.nn.dot_product_attention

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens `[N, T, D]` to `[N, T, D]`."""
    n, tokens, width = x.shape
    shape = (n, tokens, 3, self.heads, width // self.heads)
    qkv = self.dense(3 * width, "qkv")(x).reshape(shape)
    x = self.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    return self.dense(width, "proj")(x.reshape(n, tokens, width))


class Perceptron(_Layers):
  """Two linear layers with a GELU between them, for each token by itself.

  Attributes:
    hidden: Size of the hidden layer.
  """

  hidden: int = 1536

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps tokens `[N, T, D]` to `[N, T, D]`."""
    hidden = nn.gelu(self.dense(self.hidden, "fc1")(x), approximate=False)
    return self.dense(x.shape[-1], "fc2")(hidden)


class Block(_Layers):
  """Attention and perceptron, each after a norm and added to its input.

  Attributes:
    heads: Number of attention heads.
    hidden: Size of the perceptron's hidden layer.
    stochastic_depth: Probability that an image skips a part.
    dot_product_attention: Replacement for `jax.nn.dot_product_attention`.
  """

  heads: int = 6
  hidden: int = 1536
  stochastic_depth: float = 0.0
  dot_product_attention: attention.Attend = jax.nn.dot_product_attention

  @nn.compact
  def __call__(
    self, x: jax.Array, image_keys: jax.Array | None = None
  ) -> jax.Array:
    """Maps tokens `[N, T, D]` to `[N, T, D]`.

    Args:
      x: Tokens.
      image_keys: A random key per image, `[N]`; without them, no part is
        skipped.

    Returns:
      Tokens.
    """
    common = {"dtype": self.dtype, "dot_general": self.dot_general}
    attend = Attention(
      heads=self.heads,
      dot_product_attention=self.dot_product_attention,
      name="attn",
      **common,
    )
    perceptron = Perceptron(hidden=self.hidden, name="mlp", **common)
    x = x + self._leave_out(0, attend(self.norm("norm1")(x)), image_keys)
    return x + self._leave_out(1, perceptron(self.norm("norm2")(x)), image_keys)

  def _leave_out(
    self, part: int, x: jax.Array, image_keys: jax.Array | None
  ) -> jax.Array:
    """Zeros some images and scales up the others to keep the expectation."""
    if image_keys is None or not self.stochastic_depth:
      return x
    keep_probability = 1 - self.stochastic_depth

    def draw(key: jax.Array) -> jax.Array:
      own_key = jax.random.fold_in(key, part)
      return jax.random.bernoulli(own_key, jnp.float32(keep_probability))

    kept = jax.vmap(draw)(image_keys)[:, None, None]
    return jnp.where(kept, x / keep_probability, 0)


def pool(
  tokens: list[jax.Array], norm: Callable[[jax.Array], jax.Array], kind: str
) -> jax.Array:
  """Pools the tokens after each block to features.

  Args:
    tokens: Tokens after each block, `[N, T, D]`, the class token first.
    norm: The last norm.
    kind: `pooled_token` or `pooled_mean`, as in training, or a kind of
      `ViT.evaluation_features`.

  Returns:
    Features, `[N, F]`, float32.
  """
  as_float = lambda x: x.astype(jnp.float32)
  last = as_float(tokens[-1])
  if kind == "pooled_mean":  # as in timm, the norm comes last
    return norm(jnp.mean(last[:, 1:], axis=1))
  if kind == "mean":
    return jnp.mean(norm(last)[:, 1:], axis=1)
  number = int(kind.removeprefix("last_")) if kind.startswith("last_") else 1
  chosen = [norm(as_float(x)[:, 0]) for x in tokens[-number:]]
  return jnp.concatenate(chosen, axis=-1) if number > 1 else chosen[0]
