"""Training at growing image sizes."""

import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import pytest

from essl_jax import run as train
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.training import dispatch, resolution
from essl_jax.training import experiment as experiment_lib

STEPS = 2
GROWS = ((0.0, 0.5), (0.5, 1.0))  # of two epochs, one each


@pytest.fixture(scope="module")
def source():
  """Two steps an epoch of noise."""
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (32, 16, 16, 3), np.uint8)
  labels = np.arange(32) % 10
  return ArraySource(images, labels, images[:40], labels[:40])


def _views(size, third=8, stages=()):
  views = dict.fromkeys(("first", "second"), {"size": size})
  return {**views, "third": {"size": third}, "resolution": stages}


@functools.cache
def _build(config, source):
  """Once for all tests: an experiment traces its steps once."""
  mesh = parallel.make_mesh(jax.devices()[:1])
  return experiment_lib.build(config, source, mesh)


def _experiment(make, source, views, most=1):
  config = make(
    "simclr",
    views=views,
    steps_per_dispatch=most,
    encoder={"blocks": (1,)},
    projector={"widths": (16,)},
    equivariance={"hidden_widths": (16,)},
    knn={"every_epochs": 0},
    evaluations=("knn", "probe"),
    probe={"protocol": "none"},
  )
  return _build(config, source)


def _train(experiment, stop, start=0, state=None):
  """The state after `stop` steps, and the steps of each program."""
  state = experiment.create_state() if state is None else state
  advance = dispatch.make_advance(experiment, start)
  counts = []
  while start < stop:
    left = min(stop, STEPS * (start // STEPS + 1)) - start
    state, _, count, _ = advance(state, left)
    start += count
    counts.append(count)
  return state, counts


def _assert_identical(a, b):
  # Seed and step come first; the weights are what tells sizes apart.
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((a, b)))


@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_steps_see_the_sizes_of_their_epoch(tiny_config, source, most):
  """As one training at half size, continued at full size by hand."""
  small = _experiment(tiny_config, source, _views(8), most)
  full = _experiment(tiny_config, source, _views(16), most)
  state, _ = _train(small, STEPS)
  expected, _ = _train(full, 2 * STEPS, STEPS, state)
  grows = _experiment(tiny_config, source, _views(16, stages=GROWS), most)
  found, counts = _train(grows, 2 * STEPS)
  assert counts == [most] * (2 * STEPS // most)
  _assert_identical(found, expected)
  plain, _ = _train(full, 2 * STEPS)
  kernel = lambda state: state.params["encoder"]["conv1"]["kernel"]
  assert np.any(np.asarray(kernel(found)) != np.asarray(kernel(plain)))


@pytest.mark.parametrize(
  "stop",
  [
    pytest.param(1, marks=pytest.mark.slow),
    pytest.param(STEPS, marks=pytest.mark.slow),
    STEPS + 1,
  ],
)
def test_a_resumed_training_is_the_uninterrupted_one(tiny_config, source, stop):
  experiment = _experiment(tiny_config, source, _views(16, stages=GROWS))
  expected, _ = _train(experiment, 2 * STEPS)
  state, _ = _train(experiment, stop)
  found, _ = _train(experiment, 2 * STEPS, stop, state)
  _assert_identical(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("stages", "size"), [(((0.0, 1.0),), 16), (((0.0, 0.5),), 8)]
)
def test_one_size_alone_is_that_size(tiny_config, source, stages, size):
  one, _ = _train(
    _experiment(tiny_config, source, _views(16, stages=stages)), STEPS
  )
  plain, _ = _train(_experiment(tiny_config, source, _views(size)), STEPS)
  _assert_identical(one, plain)


def test_compilation_of_a_new_size_is_not_counted(
  tiny_config, source, tmp_path, monkeypatch, capsys
):
  experiment = _experiment(tiny_config, source, _views(16, stages=GROWS))
  monkeypatch.setattr(experiment_lib, "build", lambda _: experiment)
  train.run(experiment.config, tmp_path)
  (record,) = json.loads((tmp_path / "starts.json").read_text())
  # The first step of either size is not counted.
  assert record["timed_steps"] == 2 * STEPS - 2
  said = " ".join(capsys.readouterr().out.split())
  assert "8, 8, 8 from epoch 1; 16, 16, 8 from epoch 2" in said


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 400])
def test_sizes_grow_to_the_full_ones_whatever_the_epochs(tiny_config, epochs):
  stages = ((0.0, 0.5), (0.4, 0.75), (0.7, 1.0))
  views = tiny_config(views=_views(32, 16, stages)).views
  by_epoch = [resolution.at_epoch(views, epochs, i) for i in range(epochs)]
  sizes = [(x.first.size, x.second.size, x.third.size) for x in by_epoch]
  assert set(sizes) <= {(16, 16, 8), (24, 24, 12), (32, 32, 16)}
  assert all(a <= b for a, b in itertools.pairwise(sizes))
  begins = [epoch for epoch, _ in resolution.stages(views, epochs)]
  assert [x for _, x in resolution.stages(views, epochs)] == [
    by_epoch[i] for i in begins
  ]
  assert sizes[-1] == (32, 32, 16)  # the last stage is never left out
  if epochs == 400:
    assert begins == [0, 160, 280]
    assert [sizes[i][0] for i in (159, 160, 279, 280)] == [16, 24, 24, 32]
  # All but their sizes stays.
  assert dataclasses.replace(by_epoch[0].first, size=32) == views.first


@pytest.mark.parametrize(
  ("size", "fraction", "expected"),
  [(96, 0.5, 48), (33, 1.0, 33), (32, 0.1, 8), (6, 0.5, 6), (30, 0.99, 28)],
)
def test_sizes_are_multiples_of_four(size, fraction, expected):
  assert resolution.scaled_size(size, fraction) == expected


@pytest.mark.parametrize(
  "stages",
  [
    ((0.5, 1.0),),
    ((0.0, 0.5), (0.0, 1.0)),
    ((0.0, 0.5), (0.6, 0.7), (0.5, 1.0)),
    ((0.0, 0.5), (1.0, 1.0)),
    ((0.0, 0.5), (15.0, 1.0)),
    ((0.0, 0.0),),
    ((0.0, 1.5),),
    ((0.0, float("nan")),),
    ((0.0, 0.5), (float("nan"), 1.0)),
    ((0.0,),),
    ((),),
    ((0.0, 0.5, 1.0),),
  ],
)
def test_what_is_no_growth_is_refused(tiny_config, stages):
  with pytest.raises(UsageError, match="config.views.resolution must") as error:
    tiny_config(views=_views(16, stages=stages))
  assert "\n" not in str(error.value)


def test_images_that_the_host_crops_are_refused(tiny_config, source):
  sized = ArraySource(
    source.train_images,
    source.train_labels,
    source.test_images,
    source.test_labels,
  )
  sized.differs_in_size = True
  with pytest.raises(UsageError, match="differ in size and are cropped") as e:
    _experiment(tiny_config, sized, _views(16, stages=GROWS), None)
  assert "\n" not in str(e.value)


def test_stages_begin_where_they_are_asked_to():
  assert resolution.first_epoch(0.29, 100) == 29
  assert [resolution.first_epoch(0.5, n) for n in (1, 2, 3)] == [0, 1, 1]
