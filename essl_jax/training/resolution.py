"""Training at growing image sizes: the schedule of the views' sizes."""

from collections.abc import Iterable
import dataclasses
from typing import Any

from essl_jax import augment
from essl_jax import config as config_lib

_MULTIPLE = 4  # an encoder's halvings then lose little at the borders
_LEAST = 8


def scaled_size(size: int, fraction: float) -> int:
  """Computes a view's size at a stage.

  Args:
    size: the full size, in pixels.
    fraction: of the full size, in (0, 1].

  Returns:
    The nearest multiple of 4, at least 8 and never above the full size; at
    fraction 1 the full size itself.
  """
  if fraction == 1:
    return size
  nearest = _MULTIPLE * int(size * fraction / _MULTIPLE + 0.5)
  return min(size, max(_LEAST, nearest))


def at_epoch(
  views: config_lib.Views, epochs: int, epoch: int
) -> config_lib.Views:
  """Returns the views with their sizes in an epoch.

  Args:
    views: from the config; `views.resolution` says when sizes change.
    epochs: of the whole training.
    epoch: counted from 0.

  Returns:
    The views with the sizes of that epoch, and without a `resolution`.
  """
  fraction = 1.0
  for begin, value in views.resolution:
    if epoch >= first_epoch(begin, epochs):
      fraction = value
  scaled: dict[str, Any] = {
    name: dataclasses.replace(view, size=scaled_size(view.size, fraction))
    for name, view in by_name(views).items()
  }
  return dataclasses.replace(views, resolution=(), **scaled)


def by_name(views: config_lib.Views) -> dict[str, augment.View]:
  """The views of a config by name."""
  found = {x.name: getattr(views, x.name) for x in dataclasses.fields(views)}
  return {k: x for k, x in found.items() if isinstance(x, augment.View)}


def first_epoch(begin: float, epochs: int) -> int:
  """The epoch in which a stage begins, from its `begin` in [0, 1).

  Rounded down, so that the last stage has at least one epoch.
  """
  return int(begin * epochs + 1e-9)  # 0.29 of 100 is 28.999...


def stages(
  views: config_lib.Views, epochs: int
) -> list[tuple[int, config_lib.Views]]:
  """Lists the first epoch and the views of every stage, in order.

  Args:
    views: from the config.
    epochs: of the whole training.

  Returns:
    One stage if sizes never change. A stage is left out if the next begins in
    the same epoch.
  """
  begins = {0, *(first_epoch(x, epochs) for x, _ in views.resolution)}
  return [(x, at_epoch(views, epochs, x)) for x in sorted(begins)]


def describe(config: config_lib.Config, parts: Iterable[Any]) -> list[str]:
  """Says from which epoch the views of the parts have which size.

  Args:
    config: of the run.
    parts: the method and the active terms.

  Returns:
    A line, or none if sizes never change.
  """
  views, epochs = config.views, config.epochs
  if not views.resolution:
    return []
  drawn = {"first", "second", *(name for x in parts for name in x.views)}
  shown = [name for name in by_name(views) if name in drawn]
  parts = [
    ", ".join(str(getattr(at, name).size) for name in shown)
    + f" from epoch {epoch + 1}"
    for epoch, at in stages(views, epochs)
  ]
  return [f"pixels of the views {', '.join(shown)}: {'; '.join(parts)}"]
