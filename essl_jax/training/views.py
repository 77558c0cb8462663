"""What a step sees of its images: two views for SSL, transformed copies."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import chex
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import augment, data, transformations
from essl_jax import config as config_lib
from essl_jax.errors import UsageError
from essl_jax.photonics import network
from essl_jax.training import networks as networks_lib
from essl_jax.training import resolution


class Views(NamedTuple):
  """What one step sees of its images, normalised float32.

  Attributes:
    first: [N, H, W, C]; None where only the transformation is predicted.
    second: like `first`.
    transformed: [K N, h, w, C] under group elements; None for a baseline.
    labels: int32 [K N], which element; None for a baseline.
    partners: int32 [N, K] for a relative prediction; see `prediction`.
    classes: int32 [N] of the images; None without an online classifier.
  """

  first: chex.Array | None = None
  second: chex.Array | None = None
  transformed: chex.Array | None = None
  labels: chex.Array | None = None
  partners: chex.Array | None = None
  classes: chex.Array | None = None


Prepare = Callable[[Any, dict[str, jax.Array]], Views]


def image_keys(
  key: jax.Array, step: jax.Array, n: int, axis_name: str | None = None
) -> jax.Array:
  """One random key per image of a step, [n], from the key of a training.

  Image i of the global batch gets the same key however the batch is spread.
  """
  first = 0 if axis_name is None else lax.axis_index(axis_name) * n
  return augment.keys_by_place(jax.random.fold_in(key, step), n, first)


def make_views(
  config: config_lib.Config, axis_name: str | None = None
) -> Prepare:
  """The function that augments a batch and transforms its third view.

  Args:
    config: the run's config.
    axis_name: mapped axis of the step.

  Returns:
    `(state, batch) -> Views`. A batch holds uint8 images: one [N, H, W, 3]
    named `image`, of which the views are cropped here, or one [N, size, size,
    3] for each view by its name, cropped by the host. An online classifier
    wants `label` as well, int32 [N].
  """
  equivariance = config.equivariance
  prediction = networks_lib.make_prediction(config)

  def prepare(state: Any, batch: dict[str, jax.Array]) -> Views:
    n = next(iter(batch.values())).shape[0]
    key = jax.random.key(state.seed)
    keys = image_keys(key, state.step, n, axis_name)
    purposes = jax.vmap(lambda key: jax.random.split(key, 4))(keys)

    def draw(number: int, name: str, **options: Any) -> jax.Array:
      view = getattr(config.views, name)
      images = batch["image"] if "image" in batch else batch[name]
      return augment.random_view(
        purposes[:, number], images, view, crop="image" in batch, **options
      )

    views = Views()
    if config.method != "none":
      extra = config.views.extra
      first, second = (
        draw(0, "first", extra=extra),
        draw(1, "second", extra=extra),
      )
      views = views._replace(first=first, second=second)
    if config.online_classifier:
      views = views._replace(classes=batch.get("label"))
    if equivariance.weight == 0:
      return views
    transform = prediction.random_elements
    if equivariance.all_elements:
      transform = prediction.all_elements
    copies = transform(draw(2, "third", normalized=False), purposes[:, 3])
    third = config.views.third
    return views._replace(
      transformed=augment.normalize(copies.images, third.mean, third.std),
      labels=copies.labels,
      partners=copies.partners,
    )

  return prepare


def check(config: config_lib.Config, source: data.Source) -> None:
  """Refuses views and networks that the images do not fit.

  Args:
    config: of the run.
    source: of the images.

  Raises:
    UsageError: in one line.
  """
  if config.views.resolution and source.differs_in_size:
    raise UsageError(
      "config.views.resolution wants images that the devices crop, and those of"
      f" {config.data.name} differ in size and are cropped by the host: leave"
      " it empty"
    )
  full = dataclasses.replace(config.views, resolution=())
  stages = resolution.stages(config.views, config.epochs)
  # Evaluation draws the views at their full sizes.
  for views in dict.fromkeys([full, *(views for _, views in stages)]):
    stage = dataclasses.replace(config, views=views)
    _check_stage(stage, source.image_shape[2])


def _check_stage(config: config_lib.Config, channels: int) -> None:
  for name in ("first", "second", "third"):
    # Evaluation draws the first two whatever the method.
    if name == "third" and config.equivariance.weight == 0:
      continue
    view = getattr(config.views, name)
    try:
      view.check_channels(channels)
    except ValueError as error:
      raise UsageError(f"config.views.{name}: {error}") from error
    _check_groups(config, name, channels)
    needed = (network.SIDE, 1)
    if config.model.name == "photonic_cnn" and (view.size, channels) != needed:
      raise UsageError(
        f"config.model.name=photonic_cnn sees {network.SIDE} x"
        f" {network.SIDE} pixels of one channel, and config.views.{name} of"
        f" these images has {view.size} x {view.size} of {channels}"
      )


def _check_groups(config: config_lib.Config, name: str, channels: int) -> None:
  """Refuses transformations that a view's images cannot undergo."""
  view = getattr(config.views, name)
  drawn = [*view.groups]
  if name == "third":
    drawn.append(config.equivariance.group)
  elif config.views.extra is not None:
    drawn.append(config.views.extra)
  image = jax.ShapeDtypeStruct((1, view.size, view.size, channels), jnp.float32)
  label = jax.ShapeDtypeStruct((1,), jnp.int32)
  for group in drawn:
    try:
      found = transformations.find_augmentation(group)
      jax.eval_shape(found.apply, image, label)
      if isinstance(found, transformations.TransformationGroup):
        found.check_elements()
    except ValueError as error:
      raise UsageError(
        f"config.views.{name}, {group}: {error}: set"
        f" config.views.{name}.size to fit or choose another group"
      ) from error
