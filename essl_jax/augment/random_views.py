"""Random views of images, and views by given parameters."""

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

  In this order: crop, flip, colour jitter, grayscale, blur, solarize,
  elements of groups, the extra group, normalise. What has probability or
  strength 0 is not computed at all, nor is a crop that is the whole image at
  its own size.

  Args:
    key: one key, expanded by `fold_in(key, i)` for image i, or `[N]` keys, so
      that a view depends on its own key only and n devices can draw the views
      of one; typed, or legacy `[2]` and `[N, 2]`. Images with equal keys share
      their draw. Keep JAX's default (threefry) generator: others do not draw
      per key under `vmap`.
    images: `[N, H, W, 3]`, or `[N, H, W, 1]` for a view without colours.
    view: what is done: a `View`, or a mapping of its fields with a `size`.
    crop: False where the images are crops of the view's size already.
    extra: a group of `transformations.find_augmentation`; with probability 1/2
      one of its elements other than the identity is applied.
    normalized: False leaves the pixels in [0, 1], which transformations of
      colour expect; `normalize` comes after them.
    return_parameters: whether to say what was done to each image.

  Returns:
    `[N, size, size, C]`, float32; with `return_parameters`, these and their
    `ViewParameters`, by which `apply_view` makes the same views.

  Raises:
    ValueError: a mapping without `size` or with unknown fields; another number
      of keys; floating images that are known not to be in [0, 1]; images to be
      left uncropped that are not of the view's size, or of other channels than
      the view has numbers or colours for.
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
  """Makes the views of images that parameters describe.

  With those that `random_view` has returned for the same images and options,
  these are its views, bit for bit.

  Args:
    images: as of `random_view`.
    parameters: one of each for every image.
    view: that of the parameters: its size and interpolation, the parts that
      are computed, its largest `blur_sigma`, its groups, mean and std.
    crop: as of `random_view`; where False, no window is cut.
    extra: likewise; its elements are among the parameters.
    normalized: likewise.

  Returns:
    `[N, size, size, C]`, float32.

  Raises:
    ValueError: as of `random_view`; parameters of another number of images or
      of other groups; or known ones that ask for what the view does not do, or
      are of images of another size.
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
  """Windows of the images; without boxes the images are crops already."""
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
  """Flip to solarize."""

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
  """Refuses parameters that the view of these images cannot have."""
  if not isinstance(parameters, ViewParameters):
    raise ValueError(
      f"parameters must be ViewParameters, got {type(parameters).__name__}"
    )
  count, wanted = images.shape[0], set(element_names(view.groups, extra))
  if set(parameters.elements) != wanted:
    raise ValueError(
      f"parameters must have elements of {sorted(wanted)}, the groups of the"
      f" view and the extra one, got {sorted(parameters.elements)}"
    )
  columns = {"crop": (4,), "image_size": (2,), "jitter_order": (4,)}
  for path, leaf in jax.tree.leaves_with_path(parameters):
    name = path[0].name
    shape = (count, *columns.get(name, ()))
    if np.shape(leaf) != shape:
      raise ValueError(
        f"{name} of parameters must be {list(shape)} as images are"
        f" {images.shape}, got {np.shape(leaf)}"
      )
  _check_parts(parameters, view)
  if crop:
    _check_windows(images, parameters, view)


def _check_parts(parameters: ViewParameters, view: View) -> None:
  """Refuses known parameters of what the view does not compute."""
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
        f"parameters have {name} for {known.sum()} images, and the view does"
        f" without {name}: give the view that they were drawn for"
      )


def _check_windows(
  images: jax.Array, parameters: ViewParameters, view: View
) -> None:
  """Refuses known windows of images of another size."""
  sides = inputs.known(parameters.image_size)
  if sides is not None and (sides != images.shape[1:3]).any():
    other = sides[(sides != images.shape[1:3]).any(axis=1)][0]
    raise ValueError(
      f"parameters are of images of {other[0]}x{other[1]} pixels, and these"
      f" are {images.shape}"
    )
  boxes = inputs.known(parameters.crop)
  if boxes is None or not is_left(images.shape[1:], view):
    return
  cuts = boxes[(boxes != (0, 0, *images.shape[1:3])).any(axis=1)]
  if len(cuts):
    raise ValueError(
      "crop of parameters must be the whole image, as the view's is, got"
      f" {cuts[0].tolist()}"
    )
