"""SSL methods: heads plus a loss on two views; the equivariance term, once.

A method sees the outputs of the networks for two views. The equivariance term
is the same for every method and every transformation group:

    loss = ssl(view 1, view 2) + weight * cross_entropy(head(encoder(g view 3)))

Reference: Dangovski et al. 2022 (arXiv 2111.00899), equation 2.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
import jax.numpy as jnp

from essl_jax import config as config_lib
from essl_jax import losses
from essl_jax.errors import UsageError
from essl_jax.training.networks import Outputs, make_prediction

SslLoss = Callable[[Outputs], jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
  """How a method is built from a config.

  Attributes:
    loss: `(outputs, *, axis_name, **those fields) -> scalar`.
    loss_fields: config fields of the loss.
    network_fields: config fields of the networks.
  """

  loss: Callable[..., jax.Array]
  loss_fields: tuple[str, ...] = ()
  network_fields: tuple[str, ...] = ()


def simclr_loss(
  outputs: Outputs, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
  """InfoNCE averaged over both directions, as in the E-SSL program."""
  z1, z2 = outputs.projections
  info_nce = functools.partial(
    losses.info_nce, temperature=temperature, axis_name=axis_name
  )
  return (info_nce(z1, z2) + info_nce(z2, z1)) / 2


def simclr_nt_xent_loss(
  outputs: Outputs, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
  """SimCLR's own loss, with negatives from both views."""
  return losses.nt_xent(
    *outputs.projections, temperature=temperature, axis_name=axis_name
  )


def simsiam_loss(
  outputs: Outputs, *, axis_name: str | None = None
) -> jax.Array:
  """Symmetric negative cosine similarity; examples do not see each other."""
  del axis_name
  p1, p2 = outputs.predictions
  z1, z2 = outputs.projections
  cosine = losses.negative_cosine_similarity
  return (cosine(p1, z2) + cosine(p2, z1)) / 2


def barlow_twins_loss(
  outputs: Outputs, *, redundancy_weight: float, axis_name: str | None = None
) -> jax.Array:
  """Redundancy reduction between the projections of both views."""
  return losses.barlow_twins(
    *outputs.projections,
    redundancy_weight=redundancy_weight,
    axis_name=axis_name,
  )


def no_loss(outputs: Outputs, *, axis_name: str | None = None) -> jax.Array:
  """Nothing: the prediction alone is learned, as by RotNet (1803.07728)."""
  del outputs, axis_name
  return jnp.zeros(())


METHODS: Mapping[str, Method] = {
  "simclr": Method(simclr_loss, loss_fields=("temperature",)),
  "simsiam": Method(simsiam_loss, network_fields=("predictor_hidden",)),
  "barlow_twins": Method(barlow_twins_loss, loss_fields=("redundancy_weight",)),
  "simclr_nt_xent": Method(simclr_nt_xent_loss, loss_fields=("temperature",)),
  "none": Method(no_loss),
}
# Fields of the config that only some methods read.
_OWN_FIELDS = sorted(
  {
    field
    for method in METHODS.values()
    for field in (*method.loss_fields, *method.network_fields)
  }
)


def check(config: config_lib.Config) -> None:
  """Refuses unknown names and fields that the method would not read.

  Args:
    config: the run's config.

  Raises:
    UsageError: in one line, with the valid choices.
  """
  if config.method not in METHODS:
    raise UsageError(
      f"unknown config.method {config.method!r}; there are:"
      f" {', '.join(METHODS)}"
    )
  try:
    make_prediction(config)
  except ValueError as error:
    raise UsageError(f"config.equivariance: {error}") from error
  if config.method == "none":
    if not config.equivariance.weight:
      raise UsageError(
        "config.method=none learns by prediction alone, and"
        " config.equivariance.weight is 0: set it above 0, such as 1"
      )
    if config.views.extra is not None:
      raise UsageError(
        "config.views.extra is for the views of an SSL loss, and"
        " config.method=none has none: leave it unset"
      )
    if config.online_classifier:
      raise UsageError(
        "config.online_classifier sees view 1, which config.method=none does"
        " not draw: set it to False"
      )
  method = METHODS[config.method]
  for field in _OWN_FIELDS:
    needed = field in method.loss_fields + method.network_fields
    given = getattr(config, field) is not None
    if needed and not given:
      raise UsageError(f"method {config.method} needs config.{field}")
    # Prediction alone may be asked of every recipe, whatever its SSL loss.
    if given and not needed and config.method != "none":
      raise UsageError(f"method {config.method} does not read config.{field}")


def make_loss(config: config_lib.Config, axis_name: str | None) -> SslLoss:
  """The SSL loss of a config as a function of the networks' outputs.

  Args:
    config: a config that `check` has accepted.
    axis_name: mapped axis over whose devices negatives are gathered.

  Returns:
    The loss function, outputs to a local float32 scalar.
  """
  method = METHODS[config.method]
  fields = {name: getattr(config, name) for name in method.loss_fields}
  return functools.partial(method.loss, axis_name=axis_name, **fields)
