"""Whether parts of anybody's own fit together, told before they are trained."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax.augment import ViewRequest
from essl_jax.errors import UsageError, told
from essl_jax.methods.method import Outputs
from essl_jax.training import networks as networks_lib
from essl_jax.training import resolution
from essl_jax.training import step as step_lib
from essl_jax.training import views as views_lib


def check(
  config: config_lib.Config,
  problem: step_lib.Problem,
  requests: Sequence[ViewRequest],
  channels: int,
) -> None:
  """Refuses networks and losses of the wrong form; nothing is computed.

  Methods and terms of this package are known to fit and are not looked at, nor
  are encoders that have `takes_any_size`.

  Args:
    config: of the run.
    problem: what is to be trained.
    requests: the views.
    channels: of the images.

  Raises:
    UsageError: an encoder whose features are not [N, F], a loss that is no
      scalar, or a part that fails on the views.
  """
  networks = problem.networks
  if not getattr(networks.encoder, "takes_any_size", False):
    _check_encoder(config, networks, channels)
  parts = (networks.encoder, networks.method, *networks.terms)
  if any(not type(x).__module__.startswith("essl_jax.") for x in parts):
    labels = networks.needs_labels
    views = jax.eval_shape(
      lambda: views_lib.blank(requests, channels, labels=labels)
    )
    _check_losses(config, problem, views)
    _check_step(config, problem, requests, channels)


def _check_encoder(
  config: config_lib.Config, networks: networks_lib.Networks, channels: int
) -> None:
  """Tries the encoder on the views of every stage of the training."""
  encoder, name = networks.encoder, config.encoder.name
  init = nn.init(
    lambda module, x: networks_lib.bind(module, train=False)(x), encoder
  )
  variables = None
  for view, images in _images(config, networks, channels):
    side = images.shape[1]
    where = f"config.encoder.name={name}, view {view} of {side} pixels"
    if variables is None:
      make = lambda x: init(jax.random.key(0), x)
      variables = _shape_of(where, make, images)
    run = step_lib.make_encode(encoder)
    features = _shape_of(where, run, variables, images)
    rows = images.shape[0]
    if len(features.shape) != 2 or features.shape[0] != rows:
      raise UsageError(
        f"{where}: the features of {rows} images must be [{rows}, F], and are"
        f" {list(features.shape)}"
      )


def _images(
  config: config_lib.Config, networks: networks_lib.Networks, channels: int
) -> list[tuple[str, jax.ShapeDtypeStruct]]:
  """The images of different shapes that the encoder sees, with their view."""
  full = dataclasses.replace(config.views, resolution=())
  stages = resolution.stages(config.views, config.epochs)
  parts = (networks.method, *networks.terms)
  found: dict[Any, str] = {}
  for views in (full, *(x for _, x in stages)):
    requests = views_lib.union(parts, views)
    if views is full:  # evaluations see the first view, whoever asks for it
      requests = [ViewRequest("first", views.first), *requests]
    blank = jax.eval_shape(
      lambda requests=requests: views_lib.blank(requests, channels)
    )
    found |= {(x.shape, x.dtype): name for name, x in blank.images.items()}
  return [(name, jax.ShapeDtypeStruct(*form)) for form, name in found.items()]


def _check_losses(
  config: config_lib.Config, problem: step_lib.Problem, views: views_lib.Views
) -> None:
  networks, where = problem.networks, f"config.method={config.method}"
  make = lambda v: networks.init(
    jax.random.key(0), v.images, v.targets, train=False
  )
  variables = _shape_of(where, make, views)
  run = lambda x, v: networks.apply(x, v.images, v.targets, train=False)
  own, *others = _shape_of(where, run, variables, views)
  target = None
  if problem.target is not None:
    ask = lambda x, v: problem.target.apply(
      x, {k: v.images[k] for k in networks.asked[0]}, {}, train=False
    )
    (target,) = _shape_of(where, ask, variables, views)
  method = networks.method
  extra = _shape_of(where, method.initial_extra, variables["params"])
  loss = lambda own, target, extra: method.loss(
    Outputs(own, target, extra, jnp.zeros((), jnp.int32), problem.total_steps)
  )
  _check_scalar(where, _shape_of(where, loss, own, target, extra))
  for term, outputs in zip(networks.terms, others, strict=True):
    name = f"config.terms={type(term).__name__}"
    found = _shape_of(name, term.loss, outputs, views.targets)
    if not isinstance(found, tuple) or len(found) != 2:
      raise UsageError(f"{name}: loss must return (scalar, metrics)")
    _check_scalar(name, found[0])


def _check_step(
  config: config_lib.Config,
  problem: step_lib.Problem,
  requests: Sequence[ViewRequest],
  channels: int,
) -> None:
  """Tries one whole step, in the mode of training."""
  alone = networks_lib.make_networks(config, problem.networks.terms)
  problem = dataclasses.replace(problem, networks=alone, axis_name=None)
  make = lambda: step_lib.create_state(
    problem, seed=0, requests=requests, channels=channels
  )
  where = f"a step of config.method={config.method}"
  state = _shape_of(where, make)
  count = 2 * problem.micro_batches
  batch = {
    name: jax.ShapeDtypeStruct(
      (count, view.size, view.size, channels), jnp.float32
    )
    for name, view in views_lib.crops(requests).items()
  }
  labels = problem.networks.needs_labels
  if labels:
    batch["label"] = jax.ShapeDtypeStruct((count,), jnp.int32)
  prepare = views_lib.make_views(requests, labels=labels)
  step = step_lib.make_train_step(problem, prepare)
  after, _ = _shape_of(where, step, state, batch)
  forms = [
    jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (state, after)
  ]
  if forms[0] != forms[1]:
    raise UsageError(f"{where} changes the form of the state")


def _check_scalar(where: str, loss: Any) -> None:
  shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", bool)
  if shape != () or not jnp.issubdtype(dtype, jnp.floating):
    form = type(loss).__name__ if shape is None else f"{dtype}{list(shape)}"
    raise UsageError(f"{where}: the loss must be one number, and is {form}")


def _shape_of(where: str, function: Callable[..., Any], *args: Any) -> Any:
  """What a function returns, by shapes; its failure in one line."""
  with told(where):  # anybody's code
    return jax.eval_shape(function, *args)
