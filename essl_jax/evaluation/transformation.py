"""Accuracy of the prediction head on transformations of unseen images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment, inputs
from essl_jax.devices import parallel
from essl_jax.equivariance.prediction import Prediction
from essl_jax.evaluation import confusion, single_pass
from essl_jax.evaluation.encoding import BATCH
from essl_jax.evaluation.evaluation import (
  Curve,
  Evaluation,
  Picture,
  Row,
  count,
  percent,
)
from essl_jax.training import step as step_lib

PARTNERS = 2**31 - 1  # no other use of an image's key folds in this number


def run(bench: Any, state: step_lib.TrainState, number: int) -> dict[str, Any]:
  """Measures the accuracy of a prediction head on the test images.

  An image's crop depends on the seed and the image's index, counted from the
  start of the process's share over readable images.

  Args:
    bench: the experiment's bench.
    state: the state to measure.
    number: index of the term, a `Prediction`, among those of the networks.

  Returns:
    `transformation_accuracy` in percent, also for each element; `confusion`,
    the number of images under each element (rows) that were predicted as each
    element (columns); and the protocol.
  """
  experiment = bench.experiment
  config, mesh = experiment.config, experiment.mesh
  term = experiment.networks.terms[number]
  question, group = term.question, term.question.group
  predict = parallel.map_examples(
    make_predict(experiment.networks, number, config.views), mesh
  )
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  size = max(1, BATCH // group.num_classes) * mesh.size

  def recognise(images: np.ndarray, first: int) -> jax.Array:
    bench.interrupt()
    key = jax.random.PRNGKey(config.seed)
    return predict(variables, single_pass.with_keys(images, key, first, mesh))

  named, _ = single_pass.run(
    recognise, experiment.source, "test", batch_size=size, mesh=mesh
  )
  elements = np.arange(group.num_classes)
  recognised = named == elements[None]
  confusion = (named[..., None] == elements).sum(axis=0)
  found = {
    "transformation_accuracy": 100 * float(recognised.mean()),
    "per_element": [100 * float(x) for x in recognised.mean(axis=0)],
    "element_names": list(group.names),
    "confusion": confusion.tolist(),
    "group": group.name,
    "relative": question.relative,
    "separate_heads": question.separate_heads,
    "images": int(len(recognised)),
    "augmentation": f"one {term.views[0]}-view crop an image"
    + (", one random copy of it the partner" if question.relative else ""),
    "test_split": config.data.test_split,
  }
  if bench.measured["network"] == "target":
    found["network"] = "online"  # the target has no such head
  return found


def make_predict(
  networks: Any, number: int, views: Any
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Makes a function that predicts the element for every transformed image.

  Args:
    networks: `networks.Networks` with a prediction head.
    number: index of the term. All elements are applied; for a relative term,
      all copies are compared with one of them, as in training.
    views: `config.views`; the term's view crops and normalises the images.

  Returns:
    A pure function of all variables and of (uint8 images [N, H, W, 3], one
    random key per image [N]) to integers [N, K]: the prediction for element k.
  """
  question = networks.terms[number].question
  (request,) = networks.terms[number].requests(views)
  view, name = request.view, request.name

  def predict(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    crops = augment.random_view(keys, images, view, normalized=False)
    # Not the key of the crop, as in training.
    partner_keys = augment.fold_each(
      inputs.image_keys(keys, len(images)), PARTNERS
    )
    copies, targets = question.all_elements(crops, partner_keys)
    logits = networks.apply(
      variables,
      number,
      {name: augment.normalize(copies, view.mean, view.std)},
      {name: targets},
      train=False,
      method="ask_term",
    )
    named, labels = (
      x.reshape(-1, images.shape[0]).T
      for x in (question.classify(logits), targets["labels"])
    )
    # Order by the element that leads from the partner, which may not be
    # upright, to the copy.
    return jnp.take_along_axis(named, labels.argsort(axis=1), axis=1)

  return predict


class Transformation(Evaluation):
  """How often the prediction head recognises the applied element."""

  heading = "Transformation prediction"

  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """See `run` above; None without a trained head.

    The figures of `prediction` are at the top level; those of other terms are
    under the names of their sections.
    """
    found: dict[str, Any] = {}
    for number, term in enumerate(bench.experiment.networks.terms):
      if isinstance(term, Prediction) and term.head_name not in bench.at_random:
        figures = run(bench, state, number)
        is_first = term.section == Prediction.section
        found |= figures if is_first else {term.section: figures}
    return found or None

  @classmethod
  def curves(cls, figures: Mapping[str, Any]) -> dict[str, Curve]:
    """The accuracy of each term in training, with the chance level."""
    curves = {}
    for section, found in _by_term(figures).items():
      elements = found.get("per_element")
      level = ("chance", 100 / len(elements)) if elements else None
      title = _named("Transformation prediction accuracy", section)
      curves[f"{section}_accuracy"] = Curve(title, "%", level)
    return curves

  @classmethod
  def pictures(
    cls, figures: Mapping[str, Mapping[str, Any]]
  ) -> Sequence[Picture | str]:
    """The confusion matrix of every run and term."""
    return [
      confusion.of_elements(_named(run, section), found)
      for run, terms in figures.items()
      for section, found in _by_term(terms).items()
    ]

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """The accuracy over all elements, of each term."""
    title = "Transformation prediction accuracy"
    return [
      _row(_named(title, section), found)
      for section, found in _by_term(figures).items()
    ]


def _by_term(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Figures by the sections of their terms; `prediction` without any."""
  others = {k: x for k, x in figures.items() if isinstance(x, Mapping)}
  first = {k: x for k, x in figures.items() if k not in others}
  return {Prediction.section: first} | others if first or not others else others


def _named(text: str, section: str) -> str:
  return text if section == Prediction.section else f"{text}, {section}"


def _row(title: str, figures: Mapping[str, Any]) -> Row:
  elements = len(figures.get("per_element", [])) or 1
  note = (
    f"group {figures.get('group')}, chance {100 / elements:.1f}%,"
    f" {count(figures, 'images')} test images"
  )
  if "network" in figures:
    note += f", {figures['network']} network"
  return Row(title, percent(figures, "transformation_accuracy"), note)


PART = Transformation
