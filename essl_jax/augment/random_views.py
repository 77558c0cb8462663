"""Random views of images, and views with given parameters."""

from collections.abc import Mapping
from typing import Any, Literal, overload

import chex
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import inputs, transformations
from essl_jax.augment import color
from essl_jax.augment.arrays import as_float, per_image
from essl_jax.augment.blur import gaussian_blur
from essl_jax.augment.geometry import horizontal_flip, resized_crop
from essl_jax.augment.parameters import (
  JITTERS,
  ViewParameters,
  draw,
  element_names,
  is_left,
)
from essl_jax.augment.view import View, as_view


@overload
def random_view(
  key: chex.PRNGKey,
  images: chex.Array,
  view: View | Mapping[str, Any],
  *,
  crop: bool = ...,
  extra: str | None = ...,
  normalized: bool = ...,
  return_parameters: Literal[False] = ...,
) -> jax.Array: ...


@overload
def random_view(
  key: chex.PRNGKey,
  images: chex.Array,
  view: View | Mapping[str, Any],
  *,
  crop: bool = ...,
  extra: str | None = ...,
  normalized: bool = ...,
  return_parameters: Literal[True],
) -> tuple[jax.Array, ViewParameters]: ...


@inputs.any_sharding(by_example=True)
def random_view(
  key: chex.PRNGKey,
  images: chex.Array,
  view: View | Mapping[str, Any],
  *,
  crop: bool = True,
  extra: str | None = None,
  normalized: bool = True,
  return_parameters: bool = False,
) -> Any:
  """Draws one view of each image.

  Applies, in this order: crop, flip, colour jitter, grayscale, blur, solarize,
  elements of groups, the extra group, normalisation. Operations of probability
  or strength 0 are not computed, and neither is a crop that takes the whole
  image at its own size.

  Args:
    key: one key, expanded by `fold_in(key, i)` for image i, or `[N]` keys;
      typed, or legacy `[2]` and `[N, 2]`. A view depends only on its own key,
      so n devices can draw the views of one; images with equal keys share their
      draw. Keep JAX's default generator (threefry): others do not draw per key
      under `vmap`.
    images: `[N, H, W, 3]`, or `[N, H, W, 1]` for a view that leaves colours.
    view: a `View`, or a mapping of its fields that includes `size`.
    crop: False if the images are already crops of the view's size.
    extra: name of a group in `transformations.find_augmentation`; with
      probability 1/2, one of its elements other than the identity is applied.
    normalized: False leaves the pixels in [0, 1], as colour transformations
      expect them; call `normalize` afterwards.
    return_parameters: whether to also return what was done to each image.

  Returns:
    `[N, size, size, C]`, float32. With `return_parameters`, also the
    `ViewParameters` from which `apply_view` makes the same views.

  Raises:
    ValueError: a mapping without `size` or with unknown fields; a wrong number
      of keys; known floating images outside [0, 1]; without `crop`, images that
      do not have the view's size; or images whose channels do not fit the
      view's mean, std and colour operations.
  """
  view, images = as_view(view), as_float(images)
  view.check_channels(images.shape[-1])
  count, shape = images.shape[0], images.shape[1:]
  drawn = draw(key, count, shape, view, crop=crop, extra=extra)
  made = _apply(images, drawn, view, crop, extra, normalized)
  return (made, drawn.as_applied()) if return_parameters else made


@inputs.any_sharding(by_example=True)
def apply_view(
  images: chex.Array,
  parameters: ViewParameters,
  view: View | Mapping[str, Any],
  *,
  crop: bool = True,
  extra: str | None = None,
  normalized: bool = True,
) -> jax.Array:
  """Makes the views that parameters describe.

  Parameters that `random_view` returned reproduce its views bit for bit, given
  the same images and options.

  Args:
    images: as in `random_view`.
    parameters: the parameters of every image.
    view: the view that they were drawn for. It gives the size, interpolation,
      operations to compute, largest `blur_sigma`, groups, mean and std.
    crop: as in `random_view`; False cuts no window.
    extra: as in `random_view`; the parameters include its elements.
    normalized: as in `random_view`.

  Returns:
    `[N, size, size, C]`, float32.

  Raises:
    ValueError: as in `random_view`; parameters for another number of images or
      other groups; known parameters of an operation that the view leaves out,
      or of images of another size.
  """
  view, images = as_view(view), as_float(images)
  view.check_channels(images.shape[-1])
  _check(images, parameters, view, crop, extra)
  return _apply(images, parameters, view, crop, extra, normalized)


def _apply(
  images: jax.Array,
  parameters: ViewParameters,
  view: View,
  crop: bool,
  extra: str | None,
  normalized: bool,
) -> jax.Array:
  images = _crop(images, view, parameters.crop if crop else None)
  images = _flip_and_recolour(images, view, parameters)
  for name, group in element_names(view.groups, extra).items():
    found = transformations.find_augmentation(group)
    images = found.apply(images, parameters.elements[name])
  return color.normalize(images, view.mean, view.std) if normalized else images


def _crop(images: jax.Array, view: View, boxes: jax.Array | None) -> jax.Array:
  """Cuts windows from the images; without boxes, they already are crops."""
  is_sized = images.shape[1:3] == (view.size, view.size)
  if is_sized and (boxes is None or view.is_whole):
    return images
  if boxes is None:
    raise ValueError(
      f"crops of a view of size {view.size} must be [N, {view.size},"
      f" {view.size}, C], got shape {images.shape}"
    )
  return resized_crop(images, boxes, view.size, view.interpolation)


def _flip_and_recolour(
  images: jax.Array, view: View, parameters: ViewParameters
) -> jax.Array:
  """Applies the operations from flip to solarize."""

  def where(name: str, changed: jax.Array) -> jax.Array:
    now = per_image(getattr(parameters, name), images, name)[..., None]
    return jnp.where(now, changed, images)

  if view.flip:
    images = horizontal_flip(images, parameters.flip)
  if view.is_jittered:
    factors = [getattr(parameters, name) for name in JITTERS]
    places = jnp.unstack(parameters.jitter_order, axis=1)
    jittered = color.jitter(images, factors, places, view.jitter)
    images = where("jittered", jittered)
  if view.grayscale:
    images = where("grayscale", color.to_grayscale(images))
  if view.blur:
    most = view.blur_sigma[1]
    blurred = gaussian_blur(images, parameters.sigma, max_sigma=most)
    images = where("blurred", blurred)
  if view.solarize:
    inverted = color.solarize(images, parameters.threshold)
    images = where("solarized", inverted)
  return images


def _check(
  images: jax.Array,
  parameters: ViewParameters,
  view: View,
  crop: bool,
  extra: str | None,
) -> None:
  """Refuses parameters that do not fit the view and the images."""
  if not isinstance(parameters, ViewParameters):
    raise ValueError(
      f"parameters must be ViewParameters, got {type(parameters).__name__}"
    )
  count, wanted = images.shape[0], set(element_names(view.groups, extra))
  if set(parameters.elements) != wanted:
    raise ValueError(
      f"parameters must have elements of {sorted(wanted)}, the groups of the"
      f" view and the extra group, got {sorted(parameters.elements)}"
    )
  columns = {"crop": (4,), "image_size": (2,), "jitter_order": (4,)}
  for path, leaf in jax.tree.leaves_with_path(parameters):
    name = path[0].name
    shape = (count, *columns.get(name, ()))
    if np.shape(leaf) != shape:
      raise ValueError(
        f"{name} of parameters must be {list(shape)} for images"
        f" {images.shape}, got {np.shape(leaf)}"
      )
  _check_parts(parameters, view)
  if crop:
    _check_windows(images, parameters, view)


def _check_parts(parameters: ViewParameters, view: View) -> None:
  """Refuses known parameters of operations that the view leaves out."""
  parts = {
    "flip": (parameters.flip, view.flip),
    "jitter": (parameters.jittered, view.is_jittered),
    "grayscale": (parameters.grayscale, view.grayscale),
    "blur": (parameters.blurred, view.blur),
    "solarize": (parameters.solarized, view.solarize),
  }
  for name, strength in zip(JITTERS, view.jitter, strict=True):
    changes = getattr(parameters, name) != (name != "hue")
    parts[name] = (parameters.jittered & changes, strength)
  for name, (flags, is_computed) in parts.items():
    known = None if is_computed else inputs.known(flags)
    if known is not None and known.any():
      raise ValueError(
        f"parameters have {name} for {known.sum()} images, but the view is"
        f" without {name}: give the view that they were drawn for"
      )


def _check_windows(
  images: jax.Array, parameters: ViewParameters, view: View
) -> None:
  """Refuses known windows that belong to images of another size."""
  sides = inputs.known(parameters.image_size)
  if sides is not None and (sides != images.shape[1:3]).any():
    other = sides[(sides != images.shape[1:3]).any(axis=1)][0]
    raise ValueError(
      f"parameters belong to images of {other[0]}x{other[1]} pixels, but these"
      f" images are {images.shape}"
    )
  boxes = inputs.known(parameters.crop)
  if boxes is None or not is_left(images.shape[1:], view):
    return
  cuts = boxes[(boxes != (0, 0, *images.shape[1:3])).any(axis=1)]
  if len(cuts):
    raise ValueError(
      "crop of parameters must be the whole image, because the view does not"
      f" crop, got {cuts[0].tolist()}"
    )
