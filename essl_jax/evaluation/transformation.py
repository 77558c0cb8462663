"""How well the prediction head names transformations of unseen images."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment
from essl_jax.augment.arrays import image_keys
from essl_jax.devices import parallel
from essl_jax.equivariance.prediction import VIEW, Prediction
from essl_jax.evaluation import single_pass
from essl_jax.evaluation.encoding import BATCH
from essl_jax.evaluation.evaluation import Evaluation, Row, count, percent
from essl_jax.training import step as step_lib

PARTNERS = 2**31 - 1  # no other use of an image's key has this number


def run(bench: Any, state: step_lib.TrainState, number: int) -> dict[str, Any]:
  """Accuracy of a prediction head on the test images.

  An image's crop is a function of the seed and of its place: the first of a
  process's share, and from there on the number of readable images.

  Args:
    bench: of the experiment.
    state: what to measure.
    number: of the term among those of the networks, a `Prediction`.

  Returns:
    `transformation_accuracy` in percent, of each element too; `confusion`, how
    many images under each element (rows) were named each (columns); and the
    protocol.
  """
  experiment = bench.experiment
  config, mesh = experiment.config, experiment.mesh
  question = experiment.networks.terms[number].question
  group = question.group
  predict = parallel.map_examples(
    make_predict(experiment.networks, number, config.views.third), mesh
  )
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  size = max(1, BATCH // group.num_classes) * mesh.size

  def recognise(images: np.ndarray, first: int) -> jax.Array:
    bench.interrupt()
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
    "element_names": list(group.names),
    "confusion": confusion.tolist(),
    "group": group.name,
    "relative": question.relative,
    "separate_heads": question.separate_heads,
    "images": int(len(recognised)),
    "augmentation": "one third-view crop an image"
    + (", one random copy of it the partner" if question.relative else ""),
    "test_split": config.data.test_split,
  }


def make_predict(
  networks: Any, number: int, view: augment.View
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Which elements the head names for every image under all elements.

  Args:
    networks: `networks.Networks` with a prediction head.
    number: of the term; all elements are applied, and of a relative one all
      copies are compared with one of them, as in training.
    view: crops and normalises the images; the third view of the training.

  Returns:
    A pure function of all variables and of (uint8 images [N, H, W, 3], one
    random key per image [N]) to integers [N, K]: what element k was named.
  """
  question = networks.terms[number].question

  def predict(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    crops = augment.random_view(keys, images, view, normalized=False)
    # Another use of the key than the crop's, as in training.
    partner_keys = jax.vmap(jax.random.fold_in, (0, None))(
      image_keys(keys, len(images)), PARTNERS
    )
    copies = question.all_elements(crops, partner_keys)
    targets = {"labels": copies.labels, "partners": copies.partners}
    logits = networks.apply(
      variables,
      number,
      {VIEW: augment.normalize(copies.images, view.mean, view.std)},
      {VIEW: targets},
      train=False,
      method="ask_term",
    )
    named, labels = (
      x.reshape(-1, images.shape[0]).T
      for x in (question.classify(logits), copies.labels)
    )
    # By what leads to a copy from its partner, which is not always upright.
    return jnp.take_along_axis(named, labels.argsort(axis=1), axis=1)

  return predict


class Transformation(Evaluation):
  """How often the prediction head names the element that was applied."""

  heading = "Transformation prediction"

  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """See `run` above; None without a trained head."""
    terms = bench.experiment.networks.terms
    numbers = [i for i, x in enumerate(terms) if isinstance(x, Prediction)]
    if not numbers or "transformation_head" in bench.at_random:
      return None
    return run(bench, state, numbers[0])

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """The accuracy over all elements."""
    elements = len(figures.get("per_element", [])) or 1
    note = (
      f"group {figures.get('group')}, chance {100 / elements:.1f}%,"
      f" {count(figures, 'images')} test images"
    )
    value = percent(figures, "transformation_accuracy")
    return [Row("Transformation prediction accuracy", value, note)]


PART = Transformation
