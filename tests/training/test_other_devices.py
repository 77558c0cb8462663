"""A run resumes with other numbers of devices and processes."""

import json
import shutil

import jax
import numpy as np
import process_helpers
import pytest

from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.storage import checkpoint
from essl_jax.training import dispatch
from essl_jax.training import experiment as experiment_lib

STOP, TOTAL = 4, 8
LOSSES = ("loss", "loss_ssl", "loss_equivariance")


@pytest.fixture(scope="module")
def make(tiny_config):
  """Builds the same experiment on so many devices."""
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (64, 16, 16, 3), np.uint8)
  labels = np.arange(64) % 10
  source = ArraySource(images, labels, images[:40], labels[:40])
  config = tiny_config(
    "simclr",
    encoder={"blocks": (1,)},
    projector={"widths": (16,)},
    equivariance={"hidden_widths": (16,)},
    optimizer={"learning_rate": 0.003},  # rounding errors do not grow
    knn={"k": 20},
  )

  def build(count):
    mesh = parallel.make_mesh(jax.devices()[:count])
    return experiment_lib.build(config, source, mesh)

  return build


def _go_on(experiment, state, start, end):
  """The state after some steps, and the metrics of each."""
  found, advance = [], dispatch.make_advance(experiment, start)
  per_epoch = experiment.steps_per_epoch
  for step in range(start, end):
    state, metrics, count, _ = advance(state, per_epoch - step % per_epoch)
    assert count == 1
    found += dispatch.metrics_by_step(metrics, count)
  return state, found


@pytest.fixture(scope="module")
def on_four(make, tmp_path_factory):
  """A run of four devices: the workdir in its middle, and the rest of it."""
  workdir, experiment = tmp_path_factory.mktemp("four"), make(4)
  state, _ = _go_on(experiment, experiment.create_state(), 0, STOP)
  with checkpoint.Checkpoints(workdir) as checkpoints:
    checkpoints.save(STOP, state, wait=True)
  return workdir, *_go_on(experiment, state, STOP, TOTAL)


@pytest.mark.parametrize(
  "count",
  [
    pytest.param(1, marks=pytest.mark.slow),
    2,
    pytest.param(8, marks=pytest.mark.slow),
  ],
)
def test_a_run_goes_on_with_another_number_of_devices(count, make, on_four):
  """With the same global batches, so losses are equal to rounding."""
  workdir, expected_state, expected = on_four
  experiment = make(count)
  with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
    state = checkpoints.restore(experiment.create_state())
  state, found = _go_on(experiment, state, STOP, TOTAL)
  assert int(state.step) == TOTAL
  for here, there in zip(found, expected, strict=True):
    for name in LOSSES:
      assert here[name] == pytest.approx(there[name], rel=1e-4), name
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4),
    jax.device_get(state.params),
    jax.device_get(expected_state.params),
  )


@pytest.mark.slow
def test_whole_programs_go_on_with_other_numbers(tiny_config, tmp_path):
  """Stopped on four devices of two processes, and on four of one."""
  config = process_helpers.make_config(tiny_config)
  undisturbed = tmp_path / "undisturbed"
  undisturbed.mkdir()
  expected = process_helpers.run(undisturbed, config, 1).history()
  for processes in (1, 2):
    stopped = tmp_path / f"stopped{processes}"
    stopped.mkdir()
    disturb = f"SIGTERM {STOP} 0"
    ended = process_helpers.run(stopped, config, processes, disturb=disturb)
    assert ended.statuses == [0] * processes, ended.errors
    for count, devices in ((1, 1), (1, 2), (1, 8), (2, 4), (2, 8)):
      folder = tmp_path / f"from{processes}to{count}-{devices}"
      shutil.copytree(stopped, folder)
      ended = process_helpers.run(folder, config, count, devices=devices)
      assert ended.statuses == [0] * count, ended.errors
      history = ended.history()
      assert sorted(history) == sorted(expected)
      for step, figures in expected.items():
        for name in LOSSES:
          if step:
            there = pytest.approx(figures[name], rel=2e-2)
            assert history[step][name] == there, (folder.name, step, name)
      json.loads((folder / "run" / "results.json").read_text())
