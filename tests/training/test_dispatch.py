"""Several steps as one program are the same steps."""

import functools
import json

import jax
import numpy as np
import pytest
import xla_flags

from essl_jax import run as train
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.training import dispatch
from essl_jax.training import experiment as experiment_lib

STEPS = 4


@pytest.fixture(scope="module")
def source():
  """Four steps an epoch of noise."""
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (64, 16, 16, 3), np.uint8)
  labels = np.arange(64) % 10
  return ArraySource(images, labels, images[:40], labels[:40])


@functools.cache
def _build(config, source):
  """Once for all tests: an experiment traces its steps once."""
  mesh = parallel.make_mesh(jax.devices()[:2])
  return experiment_lib.build(config, source, mesh)


def _experiment(make, source, build=_build, **fields):
  small = {
    "encoder": {"blocks": (1,)},
    "projector": {"widths": (16,)},
    "equivariance": {"hidden_widths": (16,)},
    "knn": {"k": 20, "every_epochs": 2},
    "evaluations": ("knn", "probe"),
    "probe": {"protocol": "none"},
  }
  return build(make("simclr", **small, **fields), source)


def _advance(experiment, start=0):
  """The state after two epochs, every step's metrics, steps a program."""
  state, step, found, counts = experiment.create_state(), start, [], []
  advance = dispatch.make_advance(experiment, start)
  while step < 2 * STEPS:
    state, metrics, count, _ = advance(state, STEPS - step % STEPS)
    found += dispatch.metrics_by_step(metrics, count)
    counts.append(count)
    step += count
  return jax.device_get(state), found, counts


@pytest.fixture
def optimised(monkeypatch):
  """Training is compiled as users have it, and not as tests do."""

  def optimise(map_step):
    def mapped(step, mesh):
      traced, compiled = map_step(step, mesh), {}

      def run(*values):
        shapes = str([jax.typeof(x) for x in jax.tree.leaves(values)])
        if shapes not in compiled:
          compiled[shapes] = traced.lower(*values).compile(xla_flags.OPTIMISED)
        return compiled[shapes](*values)

      return run

    return mapped

  for name in ("map_step", "map_steps"):
    plain = getattr(parallel, name)
    monkeypatch.setattr(parallel, name, optimise(plain))


def test_two_steps_at_a_time_are_the_same_bit_for_bit(
  tiny_config, source, optimised
):
  """Also if a run starts so that an epoch ends with a single step."""
  build = _build.__wrapped__  # other tests' programs are not optimised
  one = _advance(_experiment(tiny_config, source, build), start=1)
  more = _experiment(tiny_config, source, build, steps_per_dispatch=2)
  two = _advance(more, start=1)
  assert (one[2], two[2]) == ([1] * 7, [2, 1, 2, 2])
  jax.tree.map(np.testing.assert_array_equal, two[0], one[0])
  # What is reported of a step leaves the program and may round otherwise.
  for metrics, expected in zip(two[1], one[1], strict=True):
    assert metrics == pytest.approx(expected, rel=1e-6)
  assert len({metrics["loss"] for metrics in two[1]}) == 7


def test_a_run_logs_every_step(tiny_config, source, tmp_path, monkeypatch):
  experiment = _experiment(tiny_config, source, steps_per_dispatch=2)
  monkeypatch.setattr(experiment_lib, "build", lambda _: experiment)
  train.run(experiment.config, tmp_path)
  text = (tmp_path / "metrics-0.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  found = {line["step"]: line["loss"] for line in lines if "loss" in line}
  _, metrics, _ = _advance(experiment)
  expected = {i: figures["loss"] for i, figures in enumerate(metrics, 1)}
  assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ("most", "steps", "expected"),
  [(1, 97, 1), (100, 97, 97), (100, 195, 98), (8, 12, 6), (5, 7, 4), (3, 7, 3)],
)
def test_the_programs_of_an_epoch_are_alike(
  tiny_config, source, most, steps, expected
):
  build = _build.__wrapped__  # it is changed
  experiment = _experiment(tiny_config, source, build, steps_per_dispatch=most)
  object.__setattr__(experiment, "steps_per_epoch", steps)
  assert experiment.steps_per_dispatch == expected
  params = jax.eval_shape(experiment.create_state).params
  text = experiment.describe(params)[0]
  assert (f"{expected} steps a program" in text) == (expected > 1)


def test_cpus_do_single_steps_unless_told(tiny_config, source):
  experiment = _experiment(tiny_config, source)
  assert experiment.steps_per_dispatch == 1


def test_streamed_images_are_refused(tiny_config, source):
  class Streamed:
    image_shape, num_classes, differs_in_size = (16, 16, 3), 10, False

    def num_examples(self, split):
      return source.num_examples(split)

  with pytest.raises(UsageError, match="data.on_device=True") as error:
    _experiment(tiny_config, Streamed(), steps_per_dispatch=2)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 2])
def test_training_neither_recompiles_nor_copies_unasked(
  tiny_config, source, size
):
  """After the first program nothing is compiled or moved by accident."""
  experiment = _experiment(tiny_config, source, steps_per_dispatch=size)
  state = experiment.create_state()
  advance = dispatch.make_advance(experiment, 0)
  heard = []
  listen = lambda name, *_, **__: heard.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    state, metrics, *_ = advance(state, STEPS)
    jax.block_until_ready(metrics)
    # Another test may have compiled the step: what is new is heard.
    jax.block_until_ready(jax.jit(lambda x: x + size)(0))
    assert [name for name in heard if "compile" in name]
    heard.clear()
    with jax.transfer_guard("disallow"):
      for _ in range(3):
        state, metrics, count, _ = advance(state, STEPS)
        dispatch.metrics_by_step(metrics, count)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not [name for name in heard if "compile" in name]
