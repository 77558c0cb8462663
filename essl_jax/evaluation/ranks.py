"""Ranks the true embedding among candidates by cosine to a prediction."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from essl_jax import augment, inputs
from essl_jax import config as config_lib
from essl_jax.augment import DrawnView, ViewRequest
from essl_jax.config import bounds, parts
from essl_jax.devices import parallel
from essl_jax.equivariance.term import PAIR, Predictor
from essl_jax.errors import UsageError
from essl_jax.evaluation import single_pass
from essl_jax.evaluation.encoding import BATCH
from essl_jax.evaluation.evaluation import Evaluation, Row, count, percent
from essl_jax.losses import common
from essl_jax.training import hooks

_HITS = (1, 2, 5, 10)


@inputs.any_sharding(by_example=True)
def ranks(
  predicted: chex.Array, candidates: chex.Array, true_index: chex.Array
) -> jax.Array:
  """Ranks the true candidates by cosine to a prediction.

  Args:
    predicted: embeddings [N, D].
    candidates: embeddings [N, K, D]; one of them is the true one.
    true_index: its index, integers [N] in [0, K).

  Returns:
    int32 [N], from 1, if the true one is nearest, to K. Candidates as near as
    the true one come before it, so embeddings that are all equal get rank K.

  Raises:
    ValueError: the shapes do not fit, or an index is not an integer or known to
      be out of range.

  Example:
    >>> candidates = jnp.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    >>> print(ranks(jnp.array([[1.0, 0.1]]), candidates, jnp.array([1])))
    [2]

  Reference:
    Garrido et al. 2023 (arXiv 2302.10283), section 5.
  """
  shapes = np.shape(predicted), np.shape(candidates)
  n, d = shapes[0] if len(shapes[0]) == 2 else (0, 0)
  if len(shapes[1]) != 3 or shapes[1][::2] != (n, d) or 0 in shapes[1]:
    raise ValueError(
      "predicted must be [N, D] and candidates [N, K, D], not empty, got"
      f" {shapes[0]} and {shapes[1]}"
    )
  count = shapes[1][1]
  index = inputs.labels_of(true_index, n, count)[:, None]
  cosines = jnp.einsum(
    "nkd,nd->nk",
    common.unit_length(candidates),
    common.unit_length(predicted),
    precision=lax.Precision.HIGHEST,
  )
  true = jnp.take_along_axis(cosines, index, axis=1)
  return count - jnp.sum(cosines < true, axis=1, dtype=jnp.int32)


def make_rank(
  networks: Any, number: int, views: Any, candidates: int
) -> Callable[[Any, tuple[jax.Array, jax.Array]], jax.Array]:
  """Makes a function that ranks candidates by a term's predictions.

  Args:
    networks: `networks.Networks`.
    number: index of the term, a `Predictor`.
    views: `config.views`; candidates are second views.
    candidates: number of views per image.

  Returns:
    A pure function from all variables and (uint8 images [N, H, W, C], one
    random key per image [N]) to float32 [N, candidates + 2]: the ranks of all
    candidates; the squared distances of the predictions, summed over
    candidates; and those of the candidates' mean. Embeddings have unit length.
  """
  term, pair = networks.terms[number], [getattr(views, x) for x in PAIR]
  source = term.predicted_from(views)
  wanted = ViewRequest(PAIR[1], pair[1], extra=views.extra)

  def draw(request: ViewRequest, keys: jax.Array, images: jax.Array) -> Any:
    made, parameters = augment.random_view(
      keys, images, request.view, extra=request.extra, return_parameters=True
    )
    return made, DrawnView(parameters, request.view, request.extra)

  def rank(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, keys = batch
    own = inputs.image_keys(keys, len(images))
    each = [augment.fold_each(own, i) for i in range(candidates + 1)]
    first, drawn_from = draw(source, each[0], images)
    # All candidates of an image are in consecutive rows.
    several = jnp.stack(each[1:], axis=1).reshape(-1)
    repeat = lambda x: jnp.repeat(x, candidates, axis=0)
    others, drawn = draw(wanted, several, repeat(images))
    features = networks.apply(
      variables,
      {"from": first, "to": others},
      train=False,
      layer=term.layer,
      method="encode",
    )
    told = jax.tree.map(repeat, drawn_from) if source.parameters else None

    def ask(heads: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
      embed = lambda x: hooks.ask(term, "embed", heads, features[x])
      given = repeat(embed("from"))
      options = (heads, given, told, drawn, pair)
      return embed("to"), hooks.ask(term, "predict", *options)

    found = networks.apply(variables, ask, train=False, method="ask_heads")
    true, predicted = (
      x.astype(jnp.float32).reshape(len(images), candidates, -1) for x in found
    )
    numbers = jnp.arange(candidates)[:, None]
    index = jnp.broadcast_to(numbers, (candidates, len(images)))
    of_all = jax.vmap(ranks, (1, None, 0), 1)(predicted, true, index)
    true, predicted = map(common.unit_length, (true, predicted))
    spread = true - true.mean(axis=1, keepdims=True)
    errors = [jnp.sum(x**2, axis=(1, 2)) for x in (predicted - true, spread)]
    return jnp.column_stack([of_all.astype(jnp.float32), *errors])

  return rank


def figures_of_ranks(rows: np.ndarray) -> dict[str, float]:
  """Computes figures from the output of `make_rank`.

  Args:
    rows: [N, candidates + 2].

  Returns:
    `mrr`, the mean reciprocal rank; `hits_at_<k>`, how often the rank is at
    most k, in percent; `prediction_error`, the mean squared distance of a
    prediction at unit length; and `relative_error`, that error divided by the
    mean squared distance of the candidates' mean: 0 is exact.
  """
  found, (errors, spread) = rows[:, :-2], rows[:, -2:].sum(axis=0)
  figures = {"mrr": float((1 / found).mean())}
  for k in _HITS:
    figures[f"hits_at_{k}"] = 100 * float((found <= k).mean())
  figures["prediction_error"] = float(errors / found.size)
  figures["relative_error"] = float(errors / max(spread, 1e-12))
  return figures


def chance(candidates: int) -> dict[str, float]:
  """The mean reciprocal rank and the hits of random guesses."""
  places = np.arange(1, candidates + 1)
  hits = {f"hits_at_{k}": 100 * min(k / candidates, 1.0) for k in _HITS}
  return {"mrr": float((1 / places).mean()), **hits}


class Ranks(Evaluation):
  """Whether a term's predictor finds a view by its parameters.

  For each image, candidates are drawn: second views with known parameters. The
  embedding of each is predicted from another view of the image, and ranked
  among all of them.

  Attributes:
    candidates: number of candidates per image.
    images: maximum number of test images. The choice is fixed
      (`data.subsets.sample`).

  Reference:
    Garrido et al. 2023 (arXiv 2302.10283), section 5.
  """

  heading = "Ranks of predicted views"

  candidates: Annotated[int, bounds.AtLeast(2), bounds.AtMost(1000)] = 50
  images: bounds.Count = 500

  def check_config(self, config: Any) -> None:
    """Refuses terms without a predictor."""
    given = [x for x in config_lib.terms(config) if x.weight]
    if not any(isinstance(x, Predictor) for x in given):
      kinds = {name: parts.TERM.find(name) for name in parts.TERM.names()}
      there = [name for name, x in kinds.items() if issubclass(x, Predictor)]
      raise UsageError(
        f"config.evaluations: {self.name} needs a term that has a predictor and"
        f" a weight, such as {' or '.join(there)}, and config.terms is"
        f" {config.terms}: add one, or leave {self.name} out"
      )

  def run(self, bench: Any, state: Any) -> dict[str, Any] | None:
    """Figures and protocol by the term's section; None without trained heads.

    `untrained` has the figures of networks with random weights. An image's
    views depend only on the seed and the image's index.
    """
    networks = bench.experiment.networks
    found = {}
    for number, term in enumerate(networks.terms):
      heads = hooks.make_heads(term, **networks.common)
      is_trained = not heads.keys() & set(bench.at_random)
      if is_trained and isinstance(term, Predictor):
        section = networks.terms[number].section
        found[section] = self._of_term(bench, state, number)
    return found or None

  def _of_term(self, bench: Any, state: Any, number: int) -> dict[str, Any]:
    experiment = bench.experiment
    config, mesh = experiment.config, experiment.mesh
    rank = parallel.map_examples(
      make_rank(experiment.networks, number, config.views, self.candidates),
      mesh,
    )

    def look(state: Any) -> np.ndarray:
      variables = {"params": state.params, "batch_stats": state.batch_stats}

      def rank_batch(images: np.ndarray, first: int) -> jax.Array:
        bench.interrupt()
        key = jax.random.PRNGKey(config.seed)
        return rank(variables, single_pass.with_keys(images, key, first, mesh))

      source = bench.encoding.some(test=self.images)
      size = max(1, BATCH // (self.candidates + 1)) * mesh.size
      return single_pass.run(
        rank_batch, source, "test", batch_size=size, mesh=mesh
      )[0]

    rows = look(state)
    found = figures_of_ranks(rows) | {
      "untrained": figures_of_ranks(look(experiment.create_state())),
      "chance": chance(self.candidates),
      "candidates": self.candidates,
      "images": len(rows),
      "candidates_are": "second views, each predicted once",
      "test_split": bench.splits["test_split"],
    }
    if bench.measured["network"] == "target":
      found["network"] = "online"  # the target has no such heads
    return found

  def rows(self, figures: Mapping[str, Any]) -> list[Row]:
    """The reciprocal rank, hits and error of each term."""
    return [row for name, x in figures.items() for row in _rows(name, x)]


def _rows(section: str, figures: Mapping[str, Any]) -> list[Row]:
  views = f"{section}, {count(figures, 'candidates')} views"
  before, guess = (figures.get(x, {}) for x in ("untrained", "chance"))
  note = f"of {count(figures, 'images')} test images"
  if "network" in figures:
    note += f", {figures['network']} network"
  names = [f"hits_at_{k}" for k in _HITS]
  hits = lambda x: ", ".join(percent(x, name) for name in names)
  number = lambda x, name: f"{x[name]:.4f}" if name in x else "–"
  return [
    Row(
      f"Mean reciprocal rank of the predicted view, {views}",
      number(figures, "mrr"),
      f"{number(before, 'mrr')} untrained, {number(guess, 'mrr')} by chance,"
      f" {note}",
    ),
    Row(
      f"Predicted view among the first {', '.join(map(str, _HITS))}, {views}",
      hits(figures),
      f"{hits(before)} untrained; {hits(guess)} by chance",
    ),
    Row(
      f"Squared error of the prediction, {views}",
      number(figures, "prediction_error"),
      f"{number(before, 'prediction_error')} untrained;"
      f" {number(figures, 'relative_error')} of that of the views' mean,"
      f" {number(before, 'relative_error')} untrained; at unit length",
    ),
  ]


PART = Ranks
