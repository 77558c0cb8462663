"""Residual networks of 18 to 152 layers with a CIFAR or an ImageNet stem.

The architecture is torchvision's ("v1.5": a bottleneck strides in its 3x3
convolution), including its symmetric padding, so PyTorch weights carry over
(`essl_jax.convert`). Note three pitfalls:

- Padding is explicit: `SAME` pads a strided convolution on one side only and
  would shift every feature map by half a pixel.
- Flax's running statistics hold the biased batch variance. PyTorch's hold the
  unbiased one, which is n/(n-1) times as large for n values per channel.
- XLA's convolution is slow on CPUs for some shapes: pass
  `convolution.default_conv()` as `conv_general_dilated`.

Reference: He et al., "Deep Residual Learning for Image Recognition",
CVPR 2016 (arXiv 1512.03385).
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import inputs

# By depth: blocks per stage, and whether they are bottlenecks.
STAGES: dict[int, tuple[tuple[int, int, int, int], bool]] = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}
STEMS = ("cifar", "imagenet")
# Larger networks are typing errors, and would never finish tracing.
_MOST_STAGES, _MOST_BLOCKS, _WIDEST = 8, 400, 10**6
BOTTLENECK_EXPANSION = 4


# Not truncated: Flax's own Kaiming initialisers cut off at two deviations.
_kaiming_normal_fan_out = nn.initializers.variance_scaling(
  2.0, "fan_out", "normal"
)


class _Layers(nn.Module):
  """Convolutions and norms shared by blocks and network."""

  dtype: Any = jnp.float32
  axis_name: str | None = None
  conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated

  def conv(
    self, features: int, size: int, stride: int, padding: int, name: str
  ) -> nn.Conv:
    return nn.Conv(
      features,
      (size, size),
      strides=(stride, stride),
      padding=((padding, padding), (padding, padding)),
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_kaiming_normal_fan_out,
      conv_general_dilated=self.conv_general_dilated,
      name=name,
    )

  def norm(self, name: str, *, train: bool, zero: bool = False) -> nn.BatchNorm:
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      dtype=self.dtype,
      axis_name=self.axis_name,
      scale_init=nn.initializers.zeros if zero else nn.initializers.ones,
      name=name,
    )


class ResidualBlock(_Layers):
  """Two 3x3 convolutions, or 1x1-3x3-1x1, added to the (projected) input."""

  width: int = 64
  stride: int = 1
  bottleneck: bool = False
  zero_init_last_norm: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images `[N, H, W, C]` to `[N, H/stride, W/stride, C']`."""
    # Features, kernel size, stride and padding of each convolution.
    if self.bottleneck:
      outer = self.width * BOTTLENECK_EXPANSION
      middle = (self.width, 3, self.stride, 1)
      convolutions = [(self.width, 1, 1, 0), middle, (outer, 1, 1, 0)]
    else:
      convolutions = [(self.width, 3, self.stride, 1), (self.width, 3, 1, 1)]
    features = convolutions[-1][0]

    shortcut = x
    if self.stride != 1 or x.shape[-1] != features:
      shortcut = self.conv(features, 1, self.stride, 0, "downsample_conv")(x)
      shortcut = self.norm("downsample_bn", train=train)(shortcut)
    for i, convolution in enumerate(convolutions, start=1):
      last = i == len(convolutions)
      x = self.conv(*convolution, name=f"conv{i}")(x)
      x = self.norm(
        f"bn{i}", train=train, zero=last and self.zero_init_last_norm
      )(x)
      x = nn.relu(x + shortcut if last else x)
    return x


class ResNet(_Layers):
  """A residual network without its classifier.

  Parameters, running statistics and the reductions of batch norms are float32
  for every `dtype`.

  Attributes:
    takes_any_size: Images may have any size and number of channels.
    depth: Number of layers: 18, 34, 50, 101 or 152.
    stem: `cifar` (3x3 convolution, stride 1) or `imagenet` (7x7 convolution,
      stride 2, then 3x3 max-pooling, stride 2).
    width: Channels of the first stage; each later stage doubles them.
    blocks: Number of blocks in each stage, overriding the depth's; (1, 1)
      compiles in seconds. The depth still chooses between basic and bottleneck
      blocks.
    zero_init_last_norm: Starts each block as the identity, with scale 0 in its
      last batch norm.
    rematerialize: Saves memory: keeps only the blocks' inputs for the backward
      pass and computes each block twice.
    dtype: Dtype of convolutions and activations.
    axis_name: Mapped axis over which batch norms share their statistics.
    conv_general_dilated: Replacement for `jax.lax.conv_general_dilated`.

  Raises:
    ValueError: For an unknown depth or stem, or a width or number of blocks
      that is below 1 or unreasonably large.

  Example:
    >>> model = ResNet(depth=18, stem="cifar", width=16)
    >>> images = jnp.zeros((2, 32, 32, 3))
    >>> variables = model.init(jax.random.key(0), images, train=False)
    >>> model.apply(variables, images, train=False).shape
    (2, 128)
  """

  takes_any_size: ClassVar[bool] = True

  depth: Literal[18, 34, 50, 101, 152] = 18
  stem: Literal["cifar", "imagenet"] = "imagenet"
  width: int = 64
  blocks: tuple[int, ...] | None = None
  zero_init_last_norm: bool = False
  rematerialize: bool = False

  def __post_init__(self) -> None:
    if self.depth not in STAGES:
      raise ValueError(
        f"ResNet depth must be one of {sorted(STAGES)}, got {self.depth!r}."
      )
    blocks = (1,) if self.blocks is None else self.blocks
    is_few = len(blocks) <= _MOST_STAGES and sum(blocks) <= _MOST_BLOCKS
    if not blocks or min(blocks) < 1 or not is_few:
      raise ValueError(
        f"ResNet blocks must be 1 to {_MOST_STAGES} positive numbers with a sum"
        f" of at most {_MOST_BLOCKS}, got {self.blocks!r}."
      )
    if self.stem not in STEMS:
      raise ValueError(f"stem must be one of {STEMS}, got {self.stem!r}.")
    if not 1 <= self.width <= _WIDEST:
      raise ValueError(
        f"ResNet width must be 1 to {_WIDEST}, got {self.width!r}."
      )
    super().__post_init__()

  @property
  def num_features(self) -> int:
    """Size F of the features: 8 times the width, or 32 with bottlenecks."""
    stages = len(self.blocks or STAGES[self.depth][0])
    bottleneck = STAGES[self.depth][1]
    expansion = BOTTLENECK_EXPANSION if bottleneck else 1
    return self.width * 2 ** (stages - 1) * expansion

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Maps images to their globally pooled features.

    Args:
      x: Normalised images, `[N, H, W, C]`, floating point.
      train: True normalises with the batch's statistics and updates the running
        ones (collection `batch_stats`); False uses the running ones.

    Returns:
      Features, `[N, F]`, float32.

    Raises:
      ValueError: If `x` does not have four axes or is not floating point.
    """
    return self.inner_features(x, train=train)[0]

  @nn.compact
  def inner_features(
    self, x: jax.Array, *, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the features, and the feature maps after each stage.

    Args:
      x: As in `__call__`.
      train: As in `__call__`.

    Returns:
      Features, and maps `[N, H, W, C]` by stage: `layer1` and so on.
    """
    if x.ndim != 4:
      raise ValueError(f"Images must be [N, H, W, C], got shape {x.shape}.")
    inputs.check_floating("Images", x)
    size, stride = (3, 1) if self.stem == "cifar" else (7, 2)
    x = self.conv(self.width, size, stride, size // 2, "conv1")(x)
    x = nn.relu(self.norm("bn1", train=train)(x))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def run(block: nn.Module, x: jax.Array) -> jax.Array:
      return block(x, train=train)

    run = nn.remat(run) if self.rematerialize and train else run
    blocks_per_stage, bottleneck = STAGES[self.depth]
    inner = {}
    for stage, blocks in enumerate(self.blocks or blocks_per_stage):
      for block in range(blocks):
        residual = ResidualBlock(
          dtype=self.dtype,
          axis_name=self.axis_name,
          conv_general_dilated=self.conv_general_dilated,
          width=self.width * 2**stage,
          stride=2 if stage > 0 and block == 0 else 1,
          bottleneck=bottleneck,
          zero_init_last_norm=self.zero_init_last_norm,
          name=f"layer{stage + 1}_{block}",
        )
        x = run(residual, x)
      inner[f"layer{stage + 1}"] = x
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32), inner


PART = ResNet
