"""How well the prediction head names transformations of unseen images."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from essl_jax import augment, parallel, transformations
from essl_jax import experiment as experiment_lib
from essl_jax import step as step_lib
from essl_jax.evaluation import single_pass


def run(
  experiment: experiment_lib.Experiment,
  state: step_lib.TrainState,
  batch_size: int,
) -> dict[str, Any]:
  """Accuracy of the prediction head on the test images.

  An image's crop is a function of the seed and of its place: the first of a
  process's share, and from there on the number of readable images.

  Args:
    experiment: with a prediction head.
    state: what to measure.
    batch_size: transformed images that a device encodes at once.

  Returns:
    `transformation_accuracy` in percent, of each element too; `confusion`, how
    many images under each element (rows) were named each (columns); and the
    protocol.
  """
  config, mesh = experiment.config, experiment.mesh
  group = transformations.GROUPS[config.equivariance.group]
  predict = parallel.map_examples(
    make_predict(experiment.networks, group, config.views.third), mesh
  )
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  size = max(1, batch_size // group.num_classes) * mesh.size

  def recognise(images: np.ndarray, first: int) -> jax.Array:
    # Legacy ones, which lie on devices as images do.
    key = jax.random.PRNGKey(config.seed)
    keys = augment.keys_by_place(key, len(images), first)
    placed = parallel.shard((images, np.asarray(keys)), mesh)
    return predict(variables, placed)

  named, _ = single_pass.run(
    recognise, experiment.source, "test", batch_size=size, mesh=mesh
  )
  elements = np.arange(group.num_classes)
  recognised = named == elements[None]
  confusion = (named[..., None] == elements).sum(axis=0)
  return {
    "transformation_accuracy": 100 * float(recognised.mean()),
    "per_element": [100 * float(x) for x in recognised.mean(axis=0)],
    "confusion": confusion.tolist(),
    "group": group.name,
    "images": int(len(recognised)),
    "augmentation": "one third-view crop an image",
  }


def make_predict(
  networks: Any, group: transformations.TransformationGroup, view: augment.View
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Which elements the head names for every image under all elements.

  Args:
    networks: `methods.Networks` with a transformation head.
    group: whose elements are applied.
    view: crops and normalises the images; the third view of the training.

  Returns:
    A pure function of all variables and of (uint8 images [N, H, W, 3], one
    random key per image [N]) to integers [N, K]: what element k was named.
  """

  def predict(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    crops = augment.random_view(keys, images, view)
    transformed, _ = group.apply_all(crops)
    features = networks.encoder.apply(
      _branch(variables, "encoder"), transformed, train=False
    )
    logits = networks.transformation_head.apply(
      _branch(variables, "transformation_head"), features, train=False
    )
    return logits.argmax(-1).reshape(group.num_classes, images.shape[0]).T

  return predict


def _branch(variables: Any, name: str) -> dict[str, Any]:
  return {kind: tree[name] for kind, tree in variables.items() if name in tree}
