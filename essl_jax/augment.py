"""Random views of images: pure functions that run inside the train step.

Common to all functions: `images` are `[N, H, W, 3]`, uint8 or floating in
[0, 1]; uint8 is divided by 255, and the result is float32 in [0, 1]. Values
given per image (`factor`, `sigma`, `flip`) are scalars or `[N]`, and may be
traced. Pixels are what torchvision computes on PIL images, save that PIL
rounds to eight bits after every operation. Everything works under `jit`,
`vmap`, `grad`, `shard_map` and `pmap`; `ValueError` names an unfit shape.

    view = View(size=16, blur=0.5)
    views = random_view(jax.random.key(0), images, view)  # [N, 16, 16, 3]
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import numbers
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

Planes = tuple[jax.Array, jax.Array, jax.Array]

_CONTRAST, _SATURATION, _HUE = 1, 2, 3


def _as_float(images: chex.Array) -> jax.Array:
  images = jnp.asarray(images)
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(f"images must be [N, H, W, 3], got {images.shape}")
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images must be uint8 or floating, got {images.dtype}")
  return images.astype(jnp.float32)


def _per_image(value: Any, images: jax.Array, name: str) -> jax.Array:
  """Lays a scalar or `[N]` out as `[N, 1, 1]`, to meet planes `[N, H, W]`."""
  value = jnp.asarray(value)
  if value.ndim > 1 or (value.ndim and value.shape[0] != images.shape[0]):
    raise ValueError(
      f"{name} must be a scalar or [{images.shape[0]}] as images are "
      f"{images.shape}, got {value.shape}"
    )
  return jnp.broadcast_to(value, images.shape[:1])[:, None, None]


def _planes(images: jax.Array) -> Planes:
  return images[..., 0], images[..., 1], images[..., 2]


def _stack(planes: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack(planes, axis=-1)


def _triangle(x: jax.Array) -> jax.Array:
  return jnp.maximum(1 - x, 0)


def _cubic(x: jax.Array) -> jax.Array:
  """Keys' cubic with a = -0.5, as PIL's; OpenCV and PyTorch take -0.75."""
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


_KERNELS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "bilinear": _triangle,
  "bicubic": _cubic,
}


def _resampling_matrix(
  start: jax.Array, extent: jax.Array, inputs: int, outputs: int, method: str
) -> jax.Array:
  """Weights `[N, outputs, inputs]` that resample `[start, start + extent)`."""
  start, extent = start[:, None, None], extent[:, None, None]
  scale = extent / outputs
  pixels = jnp.arange(inputs, dtype=jnp.float32)[None, None, :]
  steps = jnp.arange(outputs, dtype=jnp.float32)[None, :, None] + 0.5
  # Widening the kernel when shrinking is what antialiases.
  distance = (pixels + 0.5 - start - steps * scale) / jnp.maximum(scale, 1)
  inside = (pixels >= jnp.floor(start)) & (pixels < jnp.ceil(start + extent))
  weights = jnp.where(inside, _KERNELS[method](jnp.abs(distance)), 0)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _matmul_axes(
  rows: jax.Array, columns: jax.Array, images: jax.Array, *, clip: bool
) -> jax.Array:
  """Multiplies widths by `columns`, then heights by `rows`, `[N, out, in]`."""
  # TensorFloat-32 or bfloat16 passes would cost up to one grey level.
  precision = jax.lax.Precision.HIGHEST
  for spec, matrix in (("nwx,nhxc->nhwc", columns), ("nvh,nhwc->nvwc", rows)):
    images = jnp.einsum(spec, matrix, images, precision=precision)
    images = jnp.clip(images, 0, 1) if clip else images
  return images


def resized_crop(
  images: chex.Array,
  boxes: chex.Array,
  size: int | tuple[int, int],
  method: str = "bilinear",
) -> jax.Array:
  """Crops a box from each image and resizes it, antialiased as PIL does.

  Only pixels inside the box are read, as if the crop were cut out first.

  Args:
    images: `[N, H, W, 3]`.
    boxes: `[N, 4]` top, left, height, width in pixels, integer or floating;
      each overlaps its image.
    size: side of the square result, or (height, width).
    method: "bilinear" or "bicubic" (Keys, a = -0.5; clipped to [0, 1]).

  Returns:
    `[N, *size, 3]`, float32.
  """
  images, boxes = _as_float(images), jnp.asarray(boxes, jnp.float32)
  if boxes.shape != (images.shape[0], 4):
    raise ValueError(
      f"boxes must be [{images.shape[0]}, 4] as images are {images.shape}, "
      f"got {boxes.shape}"
    )
  if method not in _KERNELS:
    raise ValueError(f"method {method!r} is none of {', '.join(_KERNELS)}")
  height, width = (size, size) if isinstance(size, int) else size
  top, left, box_height, box_width = jnp.unstack(boxes, axis=1)
  rows = _resampling_matrix(top, box_height, images.shape[1], height, method)
  columns = _resampling_matrix(left, box_width, images.shape[2], width, method)
  return _matmul_axes(rows, columns, images, clip=method == "bicubic")


def center_crop_resize(
  images: chex.Array, resize: int, size: int, method: str = "bicubic"
) -> jax.Array:
  """Resizes the shorter side to `resize`, then cuts `size` from the centre."""
  count, height, width = _as_float(images).shape[:3]
  short = min(height, width)
  height, width = resize * height // short, resize * width // short
  if not 0 < size <= resize:
    raise ValueError(f"size must be in [1, resize={resize}], got {size}")
  boxes = jnp.asarray([[0, 0, *images.shape[1:3]]] * count, jnp.float32)
  images = resized_crop(images, boxes, (height, width), method)
  top, left = round((height - size) / 2), round((width - size) / 2)
  return images[:, top : top + size, left : left + size]


def _image_keys(key: chex.PRNGKey, count: int) -> jax.Array:
  """Typed keys `[count]` from one key or one per image, typed or legacy."""
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.ndim == 0:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
  if key.shape != (count,):
    raise ValueError(f"key must be one key or [{count}] keys, got {key.shape}")
  return key


def _uniform(keys: jax.Array, count: int) -> jax.Array:
  return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)


def sample_crop_boxes(
  key: chex.PRNGKey,
  n: int,
  image_shape: Sequence[int],
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> jax.Array:
  """Draws the boxes of torchvision's RandomResizedCrop.

  Ten tries of a uniform area and a log-uniform aspect; the first that fits is
  placed uniformly, and if none fits the largest central box of an allowed
  aspect is taken. All tries are drawn at once, so that there is no loop.

  Args:
    key: one key, expanded by `fold_in(key, i)`, or `[n]` keys.
    n: number of boxes.
    image_shape: (H, W, ...) in pixels.
    scale: smallest and largest area, as parts of the image's.
    ratio: smallest and largest width / height.

  Returns:
    int32 `[n, 4]`: top, left, height, width.
  """
  tries = 10
  height, width = image_shape[0], image_shape[1]
  draws = _uniform(_image_keys(key, n), 2 * tries + 2)
  area = scale[0] + (scale[1] - scale[0]) * draws[:, :tries]
  low, high = math.log(ratio[0]), math.log(ratio[1])
  aspect = jnp.exp(low + (high - low) * draws[:, tries : 2 * tries])
  widths = jnp.round(jnp.sqrt(height * width * area * aspect))
  heights = jnp.round(jnp.sqrt(height * width * area / aspect))
  fits = (widths > 0) & (widths <= width)
  fits &= (heights > 0) & (heights <= height)
  first = fits & (jnp.cumsum(fits, axis=1) == 1)
  fits_any = jnp.any(fits, axis=1)

  box_height = min(height, round(width / ratio[0]))
  box_width = min(width, round(height * ratio[1]))
  box = jnp.where(
    fits_any,
    jnp.stack([jnp.sum(heights * first, 1), jnp.sum(widths * first, 1)]),
    jnp.asarray([[box_height], [box_width]], jnp.float32),
  )
  room = jnp.asarray([[height], [width]], jnp.float32) - box
  place = jnp.minimum(jnp.floor(draws[:, -2:].T * (room + 1)), room)
  place = jnp.where(fits_any, place, jnp.floor(room / 2))
  return jnp.concatenate([place, box]).T.astype(jnp.int32)


def horizontal_flip(images: chex.Array, flip: Any = True) -> jax.Array:
  """Mirrors left and right where `flip` (bool, scalar or `[N]`) is true."""
  images = _as_float(images)
  flip = _per_image(flip, images, "flip")[..., None]
  return jnp.where(flip, images[:, :, ::-1], images)


def _gray(planes: Planes) -> jax.Array:
  """ITU-R 601 luma, as PIL's mode L."""
  return 0.299 * planes[0] + 0.587 * planes[1] + 0.114 * planes[2]


def _blend(planes: Planes, target: Any, factor: jax.Array) -> Planes:
  """Clips `factor * planes + (1 - factor) * target`."""
  red, green, blue = (
    jnp.clip(factor * plane + (1 - factor) * target, 0, 1) for plane in planes
  )
  return red, green, blue


def _through(rounded: jax.Array, x: jax.Array) -> jax.Array:
  """Takes the value of `rounded` and the gradient of `x`."""
  return jax.lax.stop_gradient(rounded) + (x - jax.lax.stop_gradient(x))


def _mean(plane: jax.Array) -> jax.Array:
  """The mean `[N, 1, 1]` in whole grey levels, as PIL's contrast takes it."""
  # Whole numbers sum to the same in any order, whatever the batch's shape.
  levels = jnp.round(plane * 255).astype(jnp.int32)
  pixels = plane.shape[1] * plane.shape[2]
  total = jnp.sum(levels, axis=(1, 2), keepdims=True).astype(jnp.float32)
  whole = jnp.floor(total / pixels + 0.5) / 255
  return _through(whole, jnp.mean(plane, axis=(1, 2), keepdims=True))


def _levels(plane: jax.Array) -> jax.Array:
  """Grey levels 0 to 255, exactly whole where the image was uint8."""
  levels = plane * 255
  whole = jnp.round(levels)
  near = jnp.abs(levels - whole) < 1e-3
  return _through(jnp.where(near, whole, levels), levels)


def _turn_hue(planes: Planes, turns: jax.Array) -> Planes:
  """Adds `turns` to the hue in PIL's HSV, which is truncated to eight bits."""
  red, green, blue = (_levels(plane) for plane in planes)
  high = jnp.maximum(jnp.maximum(red, green), blue)
  low = jnp.minimum(jnp.minimum(red, green), blue)
  divisor = jnp.where(high > low, high - low, 1)
  from_red = (high - red) / divisor
  from_green = (high - green) / divisor
  from_blue = (high - blue) / divisor
  hue = jnp.where(  # In sixths of a turn: red 0, green 2, blue 4.
    red == high,
    jnp.where(green == low, from_blue - 1, 1 - from_green),
    jnp.where(
      green == high,
      jnp.where(red == low, 3 - from_blue, 1 + from_red),
      jnp.where(red == low, 3 + from_green, 5 - from_red),
    ),
  )
  # XLA's division may be off by one bit, which PIL's truncation would show.
  sixth = hue / 6
  hue = sixth + ((hue - 4 * sixth) - 2 * sixth) / 6
  hue = jnp.where(hue < 0, hue + 1, hue) * 255
  steps = jnp.asarray(turns, jnp.float32) * 255
  hue = _through(jnp.floor(hue), hue) + _through(jnp.trunc(steps), steps)
  # PIL adds in uint8, so that the circle has 256 steps, one more than a turn.
  hue = (hue - 256 * jnp.floor(hue / 256)) * (6 / 255)
  saturation = (high - low) / jnp.where(high > 0, high, 1) * 255
  saturation = _through(jnp.floor(saturation), saturation) / 255
  high = high / 255

  def channel(peak: float) -> jax.Array:
    offset = hue - peak
    offset = jnp.abs(offset - 6 * jnp.round(offset / 6))
    return high - high * saturation * jnp.clip(offset - 1, 0, 1)

  return channel(0.0), channel(2.0), channel(4.0)


def adjust_brightness(images: chex.Array, factor: Any) -> jax.Array:
  """Multiplies by `factor` and clips: 0 is black, 1 the image itself."""
  images = _as_float(images)
  factor = _per_image(factor, images, "factor")
  return _stack(_blend(_planes(images), 0.0, factor))


def adjust_contrast(images: chex.Array, factor: Any) -> jax.Array:
  """Blends with the mean of the gray image: 0 is flat, 1 the image itself."""
  images = _as_float(images)
  factor, planes = _per_image(factor, images, "factor"), _planes(images)
  return _stack(_blend(planes, _mean(_gray(planes)), factor))


def adjust_saturation(images: chex.Array, factor: Any) -> jax.Array:
  """Blends with the gray image: 0 is gray, 1 the image itself."""
  images = _as_float(images)
  factor, planes = _per_image(factor, images, "factor"), _planes(images)
  return _stack(_blend(planes, _gray(planes), factor))


def adjust_hue(images: chex.Array, factor: Any) -> jax.Array:
  """Turns the hue by `factor` turns, -0.5 to 0.5, in PIL's eight-bit HSV.

  The gradient passes as if nothing was truncated to eight bits.
  """
  images = _as_float(images)
  factor = _per_image(factor, images, "factor")
  return _stack(_turn_hue(_planes(images), factor))


def to_grayscale(images: chex.Array) -> jax.Array:
  """The ITU-R 601 gray image, three times."""
  return _stack([_gray(_planes(_as_float(images)))] * 3)


def solarize(images: chex.Array, threshold: Any = 128 / 255) -> jax.Array:
  """Inverts the values at or above `threshold`."""
  images = _as_float(images)
  threshold = _per_image(threshold, images, "threshold")[..., None]
  return jnp.where(images >= threshold, 1 - images, images)


def _box_blur(
  images: jax.Array, radius: jax.Array, taps: int, axis: int
) -> jax.Array:
  """Means over `2 * radius + 1` pixels, `radius` `[N, 1, 1, 1]` fractional."""
  pads = [(taps, taps) if i == axis else (0, 0) for i in range(4)]
  padded = jnp.pad(images, pads, mode="edge")
  total = images
  for tap in range(1, taps + 1):
    for start in (taps - tap, taps + tap):
      shifted = jax.lax.slice_in_dim(
        padded, start, start + images.shape[axis], axis=axis
      )
      total += jnp.clip(radius + 1 - tap, 0, 1) * shifted
  return total / (2 * radius + 1)


def gaussian_blur(
  images: chex.Array, sigma: Any, *, max_sigma: float = 2.0
) -> jax.Array:
  """Blurs as PIL's GaussianBlur, whose `radius` is `sigma` in pixels.

  Three box blurs of fractional radius per axis (Gwosdek et al., "Theoretical
  Foundations of Gaussian Convolution by Extended Box Filtering", 2011), each
  repeating the border and rounding to eight bits; the gradient passes as if
  nothing was rounded.

  Args:
    images: `[N, H, W, 3]`.
    sigma: standard deviation in pixels, scalar or `[N]`.
    max_sigma: bounds the kernel where `sigma` is traced; a traced `sigma`
      above it counts as `max_sigma`. Irrelevant where `sigma` is known.

  Returns:
    `[N, H, W, 3]`, float32.
  """
  images = _as_float(images)
  if not isinstance(sigma, jax.core.Tracer):
    max_sigma = float(np.max(sigma))
  taps = math.floor((math.sqrt(4 * max_sigma**2 + 1) - 1) / 2) + 1
  sigma = _per_image(sigma, images, "sigma").astype(jnp.float32)[..., None]
  variance = jnp.clip(sigma, 0, max_sigma) ** 2
  whole = jnp.floor((jnp.sqrt(4 * variance + 1) - 1) / 2)
  part = (2 * whole + 1) * (whole * (whole + 1) - variance)
  radius = whole + part / (2 * variance - 6 * (whole + 1) ** 2)
  for axis in (2, 2, 2, 1, 1, 1):
    levels = _box_blur(images, radius, taps, axis) * 255
    # Pulled down a little because PIL's weights are truncated.
    images = _through(jnp.round(levels - 2e-4), levels) / 255
  return images


def normalize(
  images: chex.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Subtracts `mean` and divides by `std`, one value per channel."""
  images = _as_float(images)
  center = np.asarray(mean, np.float32).reshape(1, 1, 1, 3)
  # Divisions may differ in the last bit with the batch's shape, products not.
  factor = np.float32(1) / np.asarray(std, np.float32).reshape(1, 1, 1, 3)
  return (images - center) * factor


# Per field of a View: how many numbers, the smallest and the largest.
_LIMITS: dict[str, tuple[int, float, float]] = {
  "size": (1, 1, math.inf),
  "scale": (2, 1e-6, 1),
  "ratio": (2, 1e-6, math.inf),
  "flip": (1, 0, 1),
  "jitter": (4, 0, math.inf),
  "jitter_probability": (1, 0, 1),
  "grayscale": (1, 0, 1),
  "blur": (1, 0, 1),
  "blur_sigma": (2, 0, math.inf),
  "solarize": (1, 0, 1),
  "solarize_threshold": (1, 0, 1),
  "mean": (3, -math.inf, math.inf),
  "std": (3, 1e-6, math.inf),
}


def _fits(name: str, value: Any) -> bool:
  """Whether a value of a View's field has its number of values, in range."""
  count, low, high = _LIMITS[name]
  several = isinstance(value, Sequence) and not isinstance(value, str)
  values: tuple[Any, ...] = tuple(value) if several else (value,)
  kind: Any = numbers.Integral if name == "size" else numbers.Real
  return (
    several == (count > 1)
    and len(values) == count
    and all(isinstance(x, kind) and low <= x <= high for x in values)
    and (count != 2 or values[0] <= values[1])
  )


@dataclasses.dataclass(frozen=True)
class View:
  """What `random_view` does to an image; hashable, so static under `jit`.

  Attributes:
    size: side of the square view in pixels.
    scale: smallest and largest area of the crop, as parts of the image's.
    ratio: smallest and largest width / height of the crop.
    interpolation: "bilinear" or "bicubic".
    flip: probability of mirroring left and right.
    jitter: strengths of brightness, contrast, saturation and hue; factors are
      uniform in max(0, 1 - x)..1 + x, for hue in -x..x turns.
    jitter_probability: probability of the four, in random order.
    grayscale: probability of three equal channels.
    blur: probability of a Gaussian blur.
    blur_sigma: smallest and largest standard deviation in pixels.
    solarize: probability of inverting the bright values.
    solarize_threshold: where bright begins, in [0, 1].
    mean: subtracted at last, per channel.
    std: divided by at last, per channel.

  Raises:
    ValueError: a field is out of range; names it, its value and the range.
  """

  size: int
  scale: tuple[float, float] = (0.2, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = "bilinear"
  flip: float = 0.5
  jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
  jitter_probability: float = 0.8
  grayscale: float = 0.2
  blur: float = 0.0
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  solarize: float = 0.0
  solarize_threshold: float = 128 / 255
  mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
  std: tuple[float, float, float] = (0.2023, 0.1994, 0.2010)

  def __post_init__(self) -> None:
    for name in _LIMITS:
      value = getattr(self, name)
      if not _fits(name, value):
        count, low, high = _LIMITS[name]
        kind = "whole" if name == "size" else "real"
        order = ", ascending" if count == 2 else ""
        raise ValueError(
          f"{name}={value!r} of a view must be {count} {kind} number(s) in "
          f"[{low}, {high}]{order}"
        )
      if isinstance(value, Sequence):
        object.__setattr__(self, name, tuple(value))
    if self.interpolation not in _KERNELS:
      raise ValueError(
        f"interpolation={self.interpolation!r} of a view must be one of "
        f"{', '.join(_KERNELS)}"
      )
    if self.jitter[3] > 0.5:
      raise ValueError(
        f"jitter={self.jitter!r} of a view turns hues, its last number, by "
        "more than 0.5"
      )


def _as_view(view: View | Mapping[str, Any]) -> View:
  if isinstance(view, View):
    return view
  fields = dict(view.items())
  allowed = [field.name for field in dataclasses.fields(View)]
  unknown = sorted(set(fields) - set(allowed))
  if unknown or "size" not in fields:
    raise ValueError(
      f"a view needs `size` and has no {unknown}; got {sorted(fields)}, "
      f"allowed are {', '.join(allowed)}"
    )
  return View(**fields)


def _ranks(draws: Sequence[jax.Array]) -> list[jax.Array]:
  """The rank `[N]` of each draw among all, without a sort; ties by index."""
  ranks, start = [], jnp.zeros(draws[0].shape, jnp.int32)
  for i, draw in enumerate(draws):
    earlier = [other <= draw for other in draws[:i]]
    earlier += [other < draw for other in draws[i + 1 :]]
    ranks.append(sum((x.astype(jnp.int32) for x in earlier), start))
  return ranks


def _color_jitter(
  images: jax.Array, draws: jax.Array, strengths: Sequence[float]
) -> jax.Array:
  """Brightness, contrast, saturation, hue in random order per image.

  Args:
    images: `[N, H, W, 3]`, float32.
    draws: `[8, N]` uniform in [0, 1): four factors, then four ranks.
    strengths: of the four; those at 0 are left out.

  Returns:
    `[N, H, W, 3]`, float32.
  """
  active = [i for i in range(4) if strengths[i] > 0]
  factors, ranks = {}, {}
  for i, rank in zip(
    active, _ranks([draws[4 + i] for i in active]), strict=True
  ):
    center = 0 if i == _HUE else 1
    low, high = center - strengths[i], center + strengths[i]
    low = low if i == _HUE else max(0, low)
    factors[i] = _per_image(low + (high - low) * draws[i], images, "factor")
    ranks[i] = _per_image(rank, images, "rank")

  def take_turn(turn: jax.Array, planes: Planes) -> Planes:
    gray = _gray(planes)
    factor, target = jnp.ones_like(gray[:, :1, :1]), jnp.zeros_like(gray)
    for i in active:
      now = ranks[i] == turn
      if i == _CONTRAST:
        target = jnp.where(now, _mean(gray), target)
      if i == _SATURATION:
        target = jnp.where(now, gray, target)
      if i != _HUE:
        factor = jnp.where(now, factors[i], factor)
    after = _blend(planes, target, factor)
    if _HUE not in active:
      return after
    now, turned = ranks[_HUE] == turn, _turn_hue(planes, factors[_HUE])
    return jax.tree.map(lambda t, a: jnp.where(now, t, a), turned, after)

  # Unrolled, XLA's fusions on CPU compute every turn anew for each pixel.
  planes = jax.lax.fori_loop(0, len(active), take_turn, _planes(images))
  return _stack(planes)


def random_view(
  key: chex.PRNGKey, images: chex.Array, view: View | Mapping[str, Any]
) -> jax.Array:
  """Draws one view of each image.

  In this order: crop, flip, colour jitter, grayscale, blur, solarize,
  normalise. What has probability or strength 0 is not computed at all.

  Args:
    key: one key, expanded by `fold_in(key, i)` for image i, or `[N]` keys, so
      that a view depends on its own key only and n devices can draw the views
      of one; typed, or legacy `[2]` and `[N, 2]`. Keep JAX's default
      (threefry) generator: others do not draw per key under `vmap`.
    images: `[N, H, W, 3]`.
    view: a `View`, or a mapping of its fields.

  Returns:
    `[N, size, size, 3]`, float32, normalised.
  """
  view, images = _as_view(view), _as_float(images)
  count = images.shape[0]
  keys = jax.vmap(jax.random.split, out_axes=1)(_image_keys(key, count))
  boxes = sample_crop_boxes(
    keys[0], count, images.shape[1:], view.scale, view.ratio
  )
  images = resized_crop(images, boxes, view.size, view.interpolation)
  draws = _uniform(keys[1], 14).T

  def chosen(draw: jax.Array, probability: float) -> jax.Array:
    return _per_image(draw < probability, images, "draw")[..., None]

  if view.flip:
    images = horizontal_flip(images, draws[0] < view.flip)
  if view.jitter_probability and any(view.jitter):
    jittered = _color_jitter(images, draws[1:9], view.jitter)
    now = chosen(draws[9], view.jitter_probability)
    images = jnp.where(now, jittered, images)
  if view.grayscale:
    now = chosen(draws[10], view.grayscale)
    images = jnp.where(now, to_grayscale(images), images)
  if view.blur:
    low, high = view.blur_sigma
    sigma = low + (high - low) * draws[11]
    blurred = gaussian_blur(images, sigma, max_sigma=high)
    images = jnp.where(chosen(draws[12], view.blur), blurred, images)
  if view.solarize:
    inverted = solarize(images, view.solarize_threshold)
    images = jnp.where(chosen(draws[13], view.solarize), inverted, images)
  return normalize(images, view.mean, view.std)
