"""Collects the views that method and terms request, and draws them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import augment
from essl_jax.augment import ViewRequest
from essl_jax.errors import UsageError
from essl_jax.training import draws


class Views(NamedTuple):
  """The views of one step's images.

  Attributes:
    images: normalised float32 [K N, H, W, C] by view, in the order in which
      they are encoded; the first copy of all images, then the second, ...
    targets: what the views' transforms have returned, by view. `parameters`
      holds, by view, the `augment.DrawnView` of [K N] rows if a part asks for
      it; `label` holds the classes of the images, int32 [N].
  """

  images: Mapping[str, chex.Array]
  targets: Mapping[str, Any] = {}


Prepare = Callable[[Any, dict[str, jax.Array]], Views]


def union(parts: Iterable[Any], views: Any) -> list[ViewRequest]:
  """Collects the views that a method and its terms ask for, each once.

  Args:
    parts: the method, then its terms.
    views: `config.views`.

  Returns:
    The requests in the order in which they are encoded.

  Raises:
    UsageError: two parts ask for different views of one name, a view shares the
      draw of a view that no part asks for, or a view has a reserved name.
  """
  found: dict[str, ViewRequest] = {}
  for part in parts:
    for request in part.requests(views):
      if request.name in ("image", "label", "parameters"):
        raise UsageError(
          f"{type(part).__name__} asks for a view {request.name!r}, a name that"
          " batches use for something else: give it another name"
        )
      both = _both(found.setdefault(request.name, request), request)
      if both is None:
        raise UsageError(
          f"{type(part).__name__} asks for a view {request.name!r} that differs"
          " from an earlier part's view of this name: give it another name"
        )
      found[request.name] = both
  _check_draws(found)
  return list(found.values())


def _both(a: ViewRequest, b: ViewRequest) -> ViewRequest | None:
  """One request that serves both requests of a view; None if none does."""
  few, many = sorted((a.shared_by, b.shared_by))
  is_told = a.parameters or b.parameters
  a, b = (
    dataclasses.replace(x, shared_by=1, parameters=is_told) for x in (a, b)
  )
  if many % few or a != b or (many > 1 and a.chunks):
    return None
  return dataclasses.replace(a, shared_by=many)


def _check_draws(found: Mapping[str, ViewRequest]) -> None:
  """Refuses views that share draws which do not exist or do not match."""
  own = {name: x.draws for name, x in found.items() if x.draw_of is None}
  for request in found.values():
    if request.draw_of is None:
      continue
    if request.draw_of not in own:
      raise UsageError(
        f"the view {request.name!r} shares the draw of {request.draw_of!r},"
        f" which has no draw of its own; these views have one: {', '.join(own)}"
      )
    if request.draws != own[request.draw_of]:
      raise UsageError(
        f"the view {request.name!r} has {request.draws} draws and shares those"
        f" of {request.draw_of!r}, which has {own[request.draw_of]}: they must"
        " be equal"
      )


def make_views(
  requests: Sequence[ViewRequest],
  axis_name: str | None = None,
  *,
  labels: bool = False,
) -> Prepare:
  """Makes the function that draws the views of a batch.

  Args:
    requests: from `union`.
    axis_name: mapped axis of the step.
    labels: whether `targets` hold the images' classes.

  Returns:
    `(state, batch) -> Views`. A batch holds uint8 images: either one array [N,
    H, W, 3] named `image`, from which views are cropped here, or one array [N,
    size, size, 3] for each draw by its name, cropped by the host, with the
    windows if parameters are asked for. It holds `label`, int32 [N], if
    `labels`.
  """
  owners = {request.name: request for request in requests}

  def prepare(state: Any, batch: dict[str, jax.Array]) -> Views:
    n = next(iter(batch.values())).shape[0]
    total = n if axis_name is None else n * lax.axis_size(axis_name)

    @functools.cache
    def keys_of(shared_by: int) -> tuple[jax.Array, jax.Array]:
      root = jax.random.key(state.seed)
      keys = draws.image_keys(root, state.step, n, axis_name, shared_by)
      return keys, jax.vmap(lambda key: jax.random.split(key, 4))(keys)

    images: dict[str, jax.Array] = {}
    targets: dict[str, Any] = {}
    for request in requests:
      view, owner = request.view, owners[request.draw_of or request.name]
      shared = keys_of(owner.images_per_draw(total))
      of_draws = [draws.draw_keys(*shared, x) for x in request.draw_names]
      drawn, parameters = draws.draw(request, batch, of_draws)
      if parameters is not None:
        told = augment.DrawnView(parameters, view, request.extra)
        targets.setdefault("parameters", {})[request.name] = told
      if request.transform is not None:
        names = request.transform_names
        own = [draws.transform_keys(*keys_of(1), x) for x in names]
        drawn, targets[request.name] = request.transform(
          drawn, jnp.concatenate(own)
        )
      images[request.name] = augment.normalize(drawn, view.mean, view.std)
    if labels:
      targets["label"] = batch["label"]
    return Views(images, targets)

  return prepare


def blank(
  requests: Sequence[ViewRequest], channels: int, *, labels: bool = False
) -> Views:
  """Views of two images of zeros, from which parameters are initialised."""
  images: dict[str, jax.Array] = {}
  targets: dict[str, Any] = {}
  for request in requests:
    size, rows = request.view.size, 2 * request.draws
    keys = jax.random.split(jax.random.key(0), rows)
    zeros = jnp.zeros((rows, size, size, channels), jnp.float32)
    if request.parameters:
      told = targets.setdefault("parameters", {})
      told[request.name] = _blank_parameters(request, keys, channels)
    if request.transform is not None:
      shapes = jax.eval_shape(request.transform, zeros, keys)
      zeros, targets[request.name] = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), shapes
      )
    images[request.name] = zeros
  if labels:
    targets["label"] = jnp.zeros(2, jnp.int32)
  return Views(images, targets)


def _blank_parameters(
  request: ViewRequest, keys: jax.Array, channels: int
) -> augment.DrawnView:
  """Parameters of ones, by which one can divide."""
  view, extra = request.view, request.extra
  form = (view.size, view.size, channels)
  draw = lambda keys: augment.draw_parameters(
    keys, len(keys), form, view, extra=extra
  )
  ones = jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), jax.eval_shape(draw, keys)
  )
  return augment.DrawnView(ones, view, extra)


def crops(requests: Sequence[ViewRequest]) -> dict[str, augment.View]:
  """The crops that the host makes of images that differ in size.

  Args:
    requests: from `union`.

  Returns:
    One view for each draw, by the draw's name.

  Raises:
    UsageError: two views share a draw and differ, which the host cannot do.
  """
  found = {
    name: x.view for x in requests if not x.draw_of for name in x.draw_names
  }
  for request in requests:
    if any(found[name] != request.view for name in request.draw_names):
      raise UsageError(
        f"the views {request.name!r} and {request.draw_of!r} share a draw and"
        " differ, which needs images of one size; these images differ in size"
        " and are cropped by the host"
      )
  return found


def crop_options(
  requests: Sequence[ViewRequest], batch_size: int
) -> dict[str, Any]:
  """The arguments of `data.Source.batches` where the host crops.

  Args:
    requests: from `union`.
    batch_size: of all devices.

  Returns:
    `crops`, and `windows` and `shared_by` if they are needed.
  """
  shared_by = {
    name: request.images_per_draw(batch_size)
    for request in requests
    if request.draw_of is None
    for name in request.draw_names
  }
  shared_by = {name: number for name, number in shared_by.items() if number > 1}
  found: dict[str, Any] = {"crops": crops(requests)}
  if shared_by:
    found["shared_by"] = shared_by
  if any(request.parameters for request in requests):
    found["windows"] = True
  return found
