"""The train step: a pure function of one device's share of a batch."""

from collections.abc import Callable
from typing import Any

import flax
import jax
from jax import lax
import jax.numpy as jnp
import optax

from essl_jax import losses, methods
from essl_jax import prediction as prediction_lib
from essl_jax.training import gradient_cache
from essl_jax.training import networks as networks_lib
from essl_jax.training import views as views_lib

Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
  """All that training changes, and the seed of all that it draws.

  Attributes:
    step: int32 scalar, steps done.
    seed: uint32 scalar.
    params: float32 parameters by network.
    batch_stats: float32 running statistics by network.
    opt_state: the optimiser's.
  """

  step: jax.Array
  seed: jax.Array
  params: Any
  batch_stats: Any
  opt_state: optax.OptState


def create_state(
  networks: networks_lib.Networks,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  image_shape: tuple[int, int, int],
  relative: bool = False,
) -> TrainState:
  """Initial parameters, statistics and optimiser state, from the seed alone.

  Args:
    networks: from `networks.make_networks`.
    optimizer: of the networks' parameters.
    seed: a non-negative integer.
    image_shape: (H, W, C) of a view; parameters do not depend on H and W.
    relative: whether the transformation head compares two copies.

  Returns:
    The state at step 0.
  """

  def init(seed: jax.Array) -> TrainState:
    image = jnp.zeros((2, *image_shape))
    partners = jnp.zeros((1, 2), jnp.int32) if relative else None
    variables = networks.init(
      jax.random.key(seed), image, image, image, partners, train=False
    )
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      seed=seed,
      params=variables["params"],
      batch_stats=variables["batch_stats"],
      opt_state=optimizer.init(variables["params"]),
    )

  return jax.jit(init)(jnp.asarray(seed, jnp.uint32))


def make_train_step(
  networks: networks_lib.Networks,
  ssl_loss: methods.SslLoss,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  prepare: views_lib.Prepare,
  *,
  equivariance_weight: float,
  prediction: prediction_lib.Prediction | None = None,
  micro_batches: int = 1,
  axis_name: str | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
  """Builds the pure step `(state, batch) -> (state, metrics)`.

  With `axis_name` the step sees one device's share; n devices compute the
  loss, gradients and statistics of one device with the whole batch.

  Args:
    networks: with batch norm over the same `axis_name`.
    ssl_loss: from `methods.make_loss` for the same `axis_name`.
    optimizer: of the networks' parameters.
    schedule: the learning rate, for the metrics.
    prepare: makes the views of a batch; see `views.make_views`.
    equivariance_weight: lambda.
    prediction: what the transformation head is asked; None for a baseline.
    micro_batches: how many parts the networks see a device's images in; see
      `gradient_cache`.
    axis_name: mapped axis, or None on a single device.

  Raises:
    ValueError: a weight for a prediction that is not given.

  Returns:
    The step. Its metrics are float32 scalars, equal on all devices: `loss`,
    `loss_ssl`, `loss_equivariance` and `equivariance_accuracy` (percent; not
    for a baseline), `loss_online` and `online_top1` (percent; of an online
    classifier), `gradient_norm`, `learning_rate` and `embedding_std` (not
    where only the transformation is predicted).
  """
  if equivariance_weight and prediction is None:
    raise ValueError(
      f"equivariance_weight {equivariance_weight} needs a prediction"
    )
  mean = lambda tree: tree if axis_name is None else lax.pmean(tree, axis_name)

  def forward(
    params: Any, batch_stats: Any, views: views_lib.Views
  ) -> tuple[Any, Any]:
    outputs, updates = networks.apply(
      {"params": params, "batch_stats": batch_stats},
      views.first,
      views.second,
      views.transformed,
      views.partners,
      train=True,
      mutable=["batch_stats"],
    )
    return outputs, updates["batch_stats"]

  @jax.named_scope("losses")
  def objective(
    outputs: networks_lib.Outputs, views: views_lib.Views
  ) -> tuple[jax.Array, Metrics]:
    loss = ssl_loss(outputs)
    metrics = {"loss_ssl": loss}
    if prediction is not None and outputs.logits is not None:
      term = prediction.loss(outputs.logits, views.labels)
      loss = loss + equivariance_weight * term
      hits = prediction.classify(outputs.logits) == views.labels
      metrics["loss_equivariance"] = term
      metrics["equivariance_accuracy"] = 100 * jnp.mean(hits)
    metrics["loss"] = loss
    if views.classes is not None and outputs.class_logits is not None:
      # No gradient of this term reaches the encoder.
      term = losses.transformation_prediction(
        outputs.class_logits, views.classes
      )
      loss = loss + term
      hits = outputs.class_logits.argmax(-1) == views.classes
      metrics["loss_online"] = term
      metrics["online_top1"] = 100 * jnp.mean(hits)
    return loss, metrics

  def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    # Scopes name the operations for a profile; they compute nothing.
    with jax.named_scope("augmentation"):
      views = prepare(state, batch)
    # The local loss is differentiated, then averaged; see `losses`.
    gradients, metrics, outputs, batch_stats = gradient_cache.gradients(
      forward,
      lambda outputs: objective(outputs, views),
      state.params,
      state.batch_stats,
      views,
      # Views may hold transformed copies alone, several of each image.
      examples=min(x.shape[0] for x in jax.tree.leaves(batch)),
      micro_batches=micro_batches,
    )
    with jax.named_scope("exchange"):
      gradients, metrics = mean(gradients), mean(metrics)
    with jax.named_scope("optimizer"):
      updates, opt_state = optimizer.update(
        gradients, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
    with jax.named_scope("metrics"):
      metrics["gradient_norm"] = optax.tree.norm(gradients)
      metrics["learning_rate"] = schedule(state.step)
      if outputs.projections:
        metrics["embedding_std"] = embedding_std(outputs.projections[0], mean)
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    return new_state, metrics

  return train_step


def embedding_std(
  embeddings: jax.Array, mean: Callable[[Any], Any] = lambda x: x
) -> jax.Array:
  """Mean per-dimension deviation of unit-length embeddings [N, D].

  1/sqrt(D) where they spread over the sphere, 0 where they have collapsed.

  Args:
    embeddings: [N, D].
    mean: averages over devices.

  Returns:
    A float32 scalar.

  Reference:
    Chen and He 2021 (arXiv 2011.10566), figure 2.
  """
  z = embeddings.astype(jnp.float32)
  z = z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
  moments = mean((jnp.mean(z, axis=0), jnp.mean(z * z, axis=0)))
  variance = jnp.maximum(moments[1] - moments[0] ** 2, 0)
  return jnp.mean(jnp.sqrt(variance))


def make_encode(encoder: Any) -> Callable[[Any, jax.Array], jax.Array]:
  """The frozen encoder: `(variables, images) -> features`.

  Args:
    encoder: a Flax module, such as `networks.encoder`.

  Returns:
    A pure function of the encoder's own variables and of normalised images
    [N, H, W, C]; features float32 [N, F] in evaluation mode.
  """

  def encode(variables: Any, images: jax.Array) -> jax.Array:
    features = encoder.apply(variables, images, train=False)
    return features.astype(jnp.float32)

  return encode


def encoder_variables(state: TrainState) -> dict[str, Any]:
  """The encoder's parameters and statistics out of a train state."""
  return {
    "params": state.params["encoder"],
    "batch_stats": state.batch_stats["encoder"],
  }
