"""Checks views and the transformations applied to them."""

from collections.abc import Callable, Iterable
import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax import transformations
from essl_jax.errors import UsageError, told
from essl_jax.methods.method import Method
from essl_jax.training import resolution


def check(experiment: Any) -> None:
  """Refuses views that cannot be made from the images.

  Args:
    experiment: `experiment.Experiment`.

  Raises:
    UsageError: in one line.
  """
  config, parts = experiment.config, experiment.parts
  source = experiment.source
  if config.views.resolution and source.differs_in_size:
    raise UsageError(
      "config.views.resolution needs images that the devices crop; those of"
      f" {config.data.name} differ in size and are cropped by the host: leave"
      " it empty"
    )
  names = dict.fromkeys(
    ["first", "second", *(x for part in parts for x in part.views)]
  )
  channels = source.image_shape[2]
  drawn = {name: _drawn(config.views, name, parts) for name in names}
  for views in all_views(config):
    for name in names:
      with told(f"config.views.{name}"):
        getattr(views, name).check_channels(channels)
      _check_groups(views, name, drawn[name], channels)
    for part in parts:
      _check_transforms(part, _path(config, part), views, channels)
  views = config.views
  for name in names:
    for group in drawn[name]:
      found = transformations.find_augmentation(group)
      size = getattr(views, name).size
      _check_elements(f"config.views.{name}", found, size, channels)
  for term in experiment.networks.terms:
    for request in (x for x in term.requests(views) if x.transform):
      for found in term.groups:
        where = _path(config, term)
        _check_elements(where, found, request.view.size, channels)


def check_sharing(
  config: config_lib.Config, parts: Iterable[Any], devices: int
) -> None:
  """Refuses batches that cannot be divided into groups that share a draw.

  Args:
    config: of the run.
    parts: the method and the active terms.
    devices: number of devices that share a batch.

  Raises:
    UsageError: in one line.
  """
  share = config.batch_size // devices // config.micro_batches
  for part in parts:
    path = _path(config, part)
    for request in part.requests(config.views):
      with told(path):
        request.images_per_draw(config.batch_size)
      if share % request.shared_by:
        raise UsageError(
          f"{path}: groups of {request.shared_by} images share a draw of the"
          f" view {request.name!r} and must stay together, but a device has"
          f" {share} at a time: give a config.batch_size that gives each device"
          f" a multiple of {request.shared_by}"
        )


def _path(config: config_lib.Config, part: Any) -> str:
  """The config field that configures a part."""
  if isinstance(part, Method):
    return f"config.method={config.method}"
  return f"config.{part.section}"


def _drawn(views: Any, name: str, parts: Iterable[Any]) -> list[str]:
  """The groups whose elements a view applies at random."""
  own = list(getattr(views, name).groups)
  if views.extra is None:
    return own
  # Evaluations draw the first two views even if no part does.
  asked = (x for part in parts for x in part.requests(views))
  is_extra = name in ("first", "second") or any(
    x.name == name and x.extra for x in asked
  )
  return [*own, views.extra] if is_extra else own


def _check_groups(
  views: Any, name: str, groups: Iterable[str], channels: int
) -> None:
  """Refuses transformations that do not fit a view's images."""
  label = jax.ShapeDtypeStruct((1,), jnp.int32)
  for group in groups:
    found = transformations.find_augmentation(group)
    run = lambda images, found=found: jax.eval_shape(found.apply, images, label)
    path = f"config.views.{name}"
    _try(
      f"{path}, {group}",
      run,
      getattr(views, name).size,
      channels,
      [f"set {path}.size to fit"],
      "choose another group",
    )


def _check_transforms(part: Any, path: str, views: Any, channels: int) -> None:
  """Refuses transforms that fail on the views that a part asks for."""
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  for request in part.requests(views):
    if request.transform is None:
      continue

    def run(images: Any, transform: Any = request.transform) -> None:
      found = jax.eval_shape(transform, images, keys)
      if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError("the transform must return (images, targets)")

    size = request.view.size
    drawn_as = [x for x in part.views if getattr(views, x) == request.view]
    _try(
      f"{path}, view {request.name} of {size} pixels",
      run,
      size,
      channels,
      [f"set config.views.{name}.size to fit" for name in drawn_as],
      f"change {path}",
    )


def _try(
  where: str,
  run: Callable[[Any], Any],
  size: int,
  channels: int,
  sizes: list[str],
  other: str,
) -> None:
  """Runs a transformation, perhaps a user's own, on the shapes of images.

  Args:
    where: names the transformation.
    run: applies it to images.
    size: side of the images in pixels.
    channels: of the images.
    sizes: remedies to name if another image size would work.
    other: the remedy to name in any case.

  Raises:
    UsageError: the transformation fails.
  """

  def attempt(size: int) -> None:
    shape = (1, size, size, channels)
    with told(where):
      run(jax.ShapeDtypeStruct(shape, jnp.float32))

  try:
    attempt(size)
  except UsageError as error:
    ways = [other]
    for larger in range(size + 1, size + 17):
      with contextlib.suppress(UsageError):
        attempt(larger)
        ways = [*sizes, other]
        break
    raise UsageError(f"{error}: {' or '.join(ways)}") from error


def _check_elements(where: str, group: Any, side: int, channels: int) -> None:
  """Refuses groups whose labels do not tell their elements apart."""
  if isinstance(group, transformations.TransformationGroup):
    with told(f"{where}, {group.name}"):
      group.check_elements()
      for factor in group.factors or (group,):
        if transformations.GROUPS.get(factor.name) is not factor:
          transformations.check_elements(factor, side, channels)


def all_views(config: config_lib.Config) -> list[config_lib.Views]:
  """The views of every stage; full size, which evaluations use, comes first."""
  full = dataclasses.replace(config.views, resolution=())
  stages = resolution.stages(config.views, config.epochs)
  return list(dict.fromkeys([full, *(views for _, views in stages)]))
