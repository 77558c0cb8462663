"""Ranks of predicted views, for terms whose predictions are known."""

import dataclasses

import jax
import jax.numpy as jnp
from measures_helpers import WHOLE, Means
import numpy as np
import pytest
import step_helpers
from term_helpers import SMALL

from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.equivariance.term import Predictor, Term, request_pair
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import ranks
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib
from essl_jax.training import step as step_lib


class Brightness(Term):
  """Knows that the views differ only in brightness.

  Attributes:
    knows: whether it uses the parameters; else all predictions are equal.
  """

  knows: bool = True

  def requests(self, views):
    """Both views of the method."""
    return request_pair(views, parameters=True)

  def make_heads(self, **common):
    """None."""
    return {}

  def forward(self, heads, features, targets):
    """Nothing."""
    return jnp.zeros(len(features["first"]))

  def loss(self, outputs, targets, *, axis_name=None):
    """Nothing."""
    return outputs.mean(), {}

  def predicted_from(self, views):
    """The first view."""
    return self.requests(views)[0]

  def embed(self, heads, features):
    """The mean colour beside a constant: brightness turns it."""
    return jnp.concatenate([features, jnp.ones((len(features), 1))], axis=1)

  def predict(self, heads, embeddings, drawn_from, drawn, views):
    """The colours times what the brightness has changed by."""
    assert [view.size for view in views] == [4, 4]
    change = drawn.parameters.brightness / drawn_from.parameters.brightness
    colours = embeddings[:, :-1] * (change[:, None] if self.knows else 1.0)
    return self.embed(heads, colours)


@pytest.fixture(scope="module")
def experiment(tiny_config):
  """Views that differ in brightness, never so much that they are clipped."""
  view = WHOLE | {"jitter": (0.4, 0.0, 0.0, 0.0), "jitter_probability": 1.0}
  view |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
  random = np.random.default_rng(0)
  images = random.integers(40, 170, (70, 4, 4, 3)).astype(np.uint8)
  labels = np.arange(70) % 2
  config = tiny_config(
    views=dict.fromkeys(("first", "second", "third"), view),
    evaluations=("collapse",),
    knn=None,
    probe=None,
  )
  return experiment_lib.build(
    config,
    ArraySource(images, labels, images, labels),
    parallel.make_mesh(jax.devices()[:1]),
  )


def _run(experiment, evaluation, *terms, encoder=Means):
  pair = ("first", "second")
  networks = experiment.networks.clone(
    encoder=encoder(), terms=terms, asked=(pair,) * (1 + len(terms))
  )
  experiment = dataclasses.replace(experiment, networks=networks)
  bench = bench_lib.make(experiment)
  return evaluation.run(bench, experiment.create_state())


def test_a_right_prediction_finds_its_view(experiment):
  evaluation = ranks.Ranks(candidates=6, images=40)
  found = _run(experiment, evaluation, Brightness())["brightness"]
  assert (found["images"], found["candidates"]) == (40, 6)
  # But for draws that are the same as near as float32 can tell.
  assert found["mrr"] > 0.97 and found["hits_at_1"] > 95
  assert found["hits_at_2"] == found["hits_at_10"] == 100
  assert found["prediction_error"] < 1e-10 and found["relative_error"] < 1e-6
  assert found["untrained"]["mrr"] == found["mrr"]  # no weights
  assert found["chance"]["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 7)))
  title, value, note = evaluation.rows({"brightness": found})[0]
  assert "brightness, 6 views" in title and value == f"{found['mrr']:.4f}"
  assert note == f"{value} untrained, 0.4083 by chance, of 40 test images"


def test_a_prediction_without_parameters_finds_none(experiment):
  """One of the six has to be nearest: the ranks are those of chance."""
  evaluation = ranks.Ranks(candidates=6, images=70)
  found = _run(experiment, evaluation, Brightness(knows=False))["brightness"]
  # Each place comes once for each image.
  assert found["mrr"] == pytest.approx(found["chance"]["mrr"])
  for k in (1, 2, 5, 10):
    chance = found["chance"][f"hits_at_{k}"]
    assert found[f"hits_at_{k}"] == pytest.approx(chance)
  assert found["relative_error"] > 1 > found["prediction_error"] > 1e-4


class Within(Means):
  """Has the mean colours only in an inner layer."""

  def __call__(self, images, train=False):
    """Features [N, C] that say nothing."""
    return self.inner_features(images, train=train)[0]

  def inner_features(self, images, *, train):
    """Those, and maps [N, H, W, C]."""
    return jnp.ones((len(images), 3)), {"pixels": images}


def test_a_term_is_asked_about_its_layer(experiment):
  evaluation, term = ranks.Ranks(candidates=6, images=40), Brightness
  found = _run(experiment, evaluation, term(layer="pixels"), encoder=Within)
  assert found["brightness"]["relative_error"] < 1e-6


@pytest.mark.parametrize("name", ["equimod", "sie"])
def test_known_predictors_are_asked(tiny_config, name):
  """They predict from the plain view or the first one; checks shapes."""
  encoder = {"name": "term_helpers:Encoder"}
  config = tiny_config(
    "simclr", terms=(name,), encoder=encoder, **{name: SMALL[name]}
  )
  problem = step_helpers.make_problem(config)
  requests = step_helpers.make_requests(config)
  make = lambda: step_lib.create_state(problem, seed=0, requests=requests)
  state = jax.eval_shape(make)
  rank = ranks.make_rank(problem.networks, 0, config.views, 5)
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  images = jax.ShapeDtypeStruct((3, 20, 20, 3), jnp.uint8)
  keys = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
  found = jax.eval_shape(rank, variables, (images, keys))
  assert (found.shape, found.dtype) == ((3, 5 + 2), jnp.float32)


@pytest.mark.slow
def test_eight_devices_measure_as_one(experiment):
  evaluation = ranks.Ranks(candidates=6, images=37)
  found = []
  for devices in (1, 8):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    spread = dataclasses.replace(experiment, mesh=mesh)
    term = Brightness(knows=False)
    found.append(_run(spread, evaluation, term)["brightness"])
  for name in ("images", "mrr", "prediction_error", "relative_error"):
    assert found[0][name] == pytest.approx(found[1][name], rel=1e-4), name


def test_figures_by_hand():
  rows = np.array([[1, 2, 4, 3.0, 1.5], [1, 1, 11, 1.5, 3.0]])
  found = ranks.figures_of_ranks(rows)
  mrr = (1 + 1 / 2 + 1 / 4 + 1 + 1 + 1 / 11) / 6
  assert found == pytest.approx(
    {
      "mrr": mrr,
      "hits_at_1": 50,
      "hits_at_2": 400 / 6,
      "hits_at_5": 500 / 6,
      "hits_at_10": 500 / 6,
      "prediction_error": 4.5 / 6,
      "relative_error": 1,
    }
  )


def test_who_has_a_predictor():
  assert isinstance(Brightness(), Predictor)


@pytest.mark.parametrize(
  ("terms", "fields"),
  [
    (("prediction",), {}),
    (("augself", "prediction"), {}),
    (("equimod",), {"equimod": {"weight": 0.0}}),
  ],
)
def test_terms_without_a_predictor_are_refused(tiny_config, terms, fields):
  """The config suffices: no data are opened."""
  config = tiny_config(
    "simclr", terms=terms, evaluations=("knn", "probe", "ranks"), **fields
  )
  expected = "ranks needs a term that has a predictor .* equimod or sie, and"
  with pytest.raises(UsageError, match=expected) as error:
    networks_lib.check_parts(config)
  assert "\n" not in str(error.value)
  networks_lib.check_parts(dataclasses.replace(config, mode="finetune"))


def test_terms_with_a_predictor_are_welcome(tiny_config):
  for name in ("equimod", "sie"):
    config = tiny_config(
      "simclr",
      terms=(name,),
      encoder={"name": "term_helpers:Encoder"},
      evaluations=("knn", "probe", "ranks"),
      **{name: SMALL[name]},
    )
    networks_lib.check_parts(config)
