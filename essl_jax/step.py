"""The train step: a pure function of one device's share of a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax
import jax
from jax import lax
import jax.numpy as jnp
import optax

from essl_jax import augment, gradient_cache, losses, methods, transformations
from essl_jax import config as config_lib

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


class Views(NamedTuple):
  """What one step sees of its images, normalised float32.

  Attributes:
    first: [N, H, W, C].
    second: [N, H, W, C].
    transformed: [M, h, w, C] under group elements; None for a baseline.
    labels: int32 [M], which element; None for a baseline.
    classes: int32 [N] of the images; None without an online classifier.
  """

  first: chex.Array
  second: chex.Array
  transformed: chex.Array | None = None
  labels: chex.Array | None = None
  classes: chex.Array | None = None


Prepare = Callable[[TrainState, dict[str, jax.Array]], Views]


def create_state(
  networks: methods.Networks,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  image_shape: tuple[int, int, int],
) -> TrainState:
  """Initial parameters, statistics and optimiser state, from the seed alone.

  Args:
    networks: from `methods.make_networks`.
    optimizer: of the networks' parameters.
    seed: a non-negative integer.
    image_shape: (H, W, C) of a view; parameters do not depend on H and W.

  Returns:
    The state at step 0.
  """

  def init(seed: jax.Array) -> TrainState:
    image = jnp.zeros((2, *image_shape))
    variables = networks.init(
      jax.random.key(seed), image, image, image, train=False
    )
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      seed=seed,
      params=variables["params"],
      batch_stats=variables["batch_stats"],
      opt_state=optimizer.init(variables["params"]),
    )

  return jax.jit(init)(jnp.asarray(seed, jnp.uint32))


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
  group = transformations.GROUPS[equivariance.group]

  def prepare(state: TrainState, batch: dict[str, jax.Array]) -> Views:
    n = next(iter(batch.values())).shape[0]
    key = jax.random.key(state.seed)
    keys = image_keys(key, state.step, n, axis_name)
    purposes = jax.vmap(lambda key: jax.random.split(key, 4))(keys)

    def draw(number: int, name: str) -> jax.Array:
      view = getattr(config.views, name)
      images = batch["image"] if "image" in batch else batch[name]
      return augment.random_view(
        purposes[:, number], images, view, crop="image" in batch
      )

    views = Views(draw(0, "first"), draw(1, "second"))
    if config.online_classifier:
      views = views._replace(classes=batch.get("label"))
    if equivariance.weight == 0:
      return views
    third = draw(2, "third")
    if equivariance.all_elements:
      transformed, labels = group.apply_all(third)
    else:
      transformed, labels = group.apply_random(purposes[:, 3], third)
    return views._replace(transformed=transformed, labels=labels)

  return prepare


def make_train_step(
  networks: methods.Networks,
  ssl_loss: methods.SslLoss,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  prepare: Prepare,
  *,
  equivariance_weight: float,
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
    prepare: makes the views of a batch; see `make_views`.
    equivariance_weight: lambda.
    micro_batches: how many parts the networks see a device's images in; see
      `gradient_cache`.
    axis_name: mapped axis, or None on a single device.

  Returns:
    The step. Its metrics are float32 scalars, equal on all devices: `loss`,
    `loss_ssl`, `loss_equivariance` and `equivariance_accuracy` (percent; not
    for a baseline), `loss_online` and `online_top1` (percent; of an online
    classifier), `gradient_norm`, `learning_rate` and `embedding_std`.
  """
  mean = lambda tree: tree if axis_name is None else lax.pmean(tree, axis_name)

  def forward(params: Any, batch_stats: Any, views: Views) -> tuple[Any, Any]:
    outputs, updates = networks.apply(
      {"params": params, "batch_stats": batch_stats},
      views.first,
      views.second,
      views.transformed,
      train=True,
      mutable=["batch_stats"],
    )
    return outputs, updates["batch_stats"]

  def objective(
    outputs: methods.Outputs, views: Views
  ) -> tuple[jax.Array, Metrics]:
    loss = ssl_loss(outputs)
    metrics = {"loss_ssl": loss}
    if views.labels is not None and outputs.logits is not None:
      term = losses.transformation_prediction(outputs.logits, views.labels)
      loss = loss + equivariance_weight * term
      hits = outputs.logits.argmax(-1) == views.labels
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
    views = prepare(state, batch)
    # The local loss is differentiated, then averaged; see `losses`.
    gradients, metrics, outputs, batch_stats = gradient_cache.gradients(
      forward,
      lambda outputs: objective(outputs, views),
      state.params,
      state.batch_stats,
      views,
      micro_batches=micro_batches,
    )
    gradients, metrics = mean(gradients), mean(metrics)
    updates, opt_state = optimizer.update(
      gradients, state.opt_state, state.params
    )
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    metrics["learning_rate"] = schedule(state.step)
    metrics["embedding_std"] = embedding_std(outputs.projections[0], mean)
    new_state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
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
