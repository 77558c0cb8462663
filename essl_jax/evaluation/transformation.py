"""How well the prediction head names transformations of unseen images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment
from essl_jax import prediction as prediction_lib
from essl_jax.augment.arrays import image_keys
from essl_jax.devices import parallel
from essl_jax.evaluation import single_pass
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib

_PARTNERS = 2**31 - 1  # no other use of an image's key has this number


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
  prediction = networks_lib.make_prediction(config)
  group = prediction.group
  predict = parallel.map_examples(
    make_predict(experiment.networks, prediction, config.views.third), mesh
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
    "relative": prediction.relative,
    "separate_heads": prediction.separate_heads,
    "images": int(len(recognised)),
    "augmentation": "one third-view crop an image"
    + (", one random copy of it the partner" if prediction.relative else ""),
  }


def make_predict(
  networks: Any, prediction: prediction_lib.Prediction, view: augment.View
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Which elements the head names for every image under all elements.

  Args:
    networks: `networks.Networks` with a transformation head.
    prediction: what the head was asked; all elements are applied, and of a
      relative one all copies are compared with one of them, as in training.
    view: crops and normalises the images; the third view of the training.

  Returns:
    A pure function of all variables and of (uint8 images [N, H, W, 3], one
    random key per image [N]) to integers [N, K]: what element k was named.
  """

  def predict(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    crops = augment.random_view(keys, images, view, normalized=False)
    # Another use of the key than the crop's, as in training.
    partner_keys = jax.vmap(jax.random.fold_in, (0, None))(
      image_keys(keys, len(images)), _PARTNERS
    )
    copies = prediction.all_elements(crops, partner_keys)
    logits = networks.apply(
      variables,
      augment.normalize(copies.images, view.mean, view.std),
      copies.partners,
      train=False,
      method="predict_transformation",
    )
    named, labels = (
      x.reshape(-1, images.shape[0]).T
      for x in (prediction.classify(logits), copies.labels)
    )
    # By what leads to a copy from its partner, which is not always upright.
    return jnp.take_along_axis(named, labels.argsort(axis=1), axis=1)

  return predict
