"""The regression: error measure, training, devices, resuming, whole runs."""

import dataclasses
import doctest
import functools
import json

import jax
import numpy as np
import photonics_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import optim
from essl_jax import run as train
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation.saved import Saved
from essl_jax.models import resnet
from essl_jax.photonics import (
  density,
  encoder,
  evaluation,
  regression,
  regressor,
)
from essl_jax.storage.preemption import Stopped
from essl_jax.training import experiment as experiment_lib

SOURCE = photonics_helpers.source()


@functools.cache
def build(devices=1):
  config = config_lib.parse(photonics_helpers.raw_config())
  mesh = parallel.make_mesh(jax.devices()[:devices])
  return experiment_lib.build(config, SOURCE, mesh)


@functools.cache
def problem(devices=1):
  experiment = build(devices)
  return experiment.config.regression.problem(
    experiment, experiment.create_state()
  )


def fit(made, mesh, *runs):
  """Returns the figures of trainings, without saving."""
  return regressor.Trainer(made, mesh).train(runs, saved=Saved(None, mesh))


def test_golden_relative_error(golden):
  file = golden("photonics")
  error = density.relative_error(file["dos_output"], file["dos_target"])
  np.testing.assert_allclose(error, file["dos_relative_error"], rtol=1e-6)
  with pytest.raises(ValueError, match=r"\(5, 400\) and \(4, 400\)"):
    density.relative_error(file["dos_output"], file["dos_target"][:4])
  result = doctest.testmod(density)
  assert result.attempted >= 2 and result.failed == 0


def test_golden_schedule(golden):
  expected = golden("photonics")["pretrain_lr_201epochs_4iters"]
  schedule = optim.warmup_cosine(1e-3, warmup_steps=0, total_steps=804)
  actual = jax.vmap(schedule)(np.arange(804))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-9)


def test_figures_choose_the_epoch_on_validation_cells():
  validation = np.array([[0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])
  test = np.array([[0.5, 0.4, 0.2], [0.2, 0.1, 0.3]])
  figures = regression.summarise(validation, test)
  assert figures["epoch_each"] == [2, 1]
  np.testing.assert_allclose(figures["dos_error_each"], [40, 20])
  np.testing.assert_allclose(figures["dos_error"], 30)
  np.testing.assert_allclose(figures["dos_error_std"], 200**0.5)
  np.testing.assert_allclose(figures["dos_error_validation"], 10)
  np.testing.assert_allclose(figures["dos_error_minimum_over_test"], 15)


def test_adam_decays_as_pytorchs_does():
  """Compares with torch.optim.Adam's formulas: moments include the decay."""
  settings = evaluation.Regression(learning_rate=0.003, weight_decay=0.1)
  made = regressor.Problem(None, None, {}, settings, None)
  weights, gradients = np.array([1.0, -2.0]), np.array([[0.3, 0.1], [-0.2, 1]])
  state, actual = made.optimizer.init(weights), weights
  first, second = np.zeros(2), np.zeros(2)
  for step, gradient in enumerate(gradients, start=1):
    updates, state = made.optimizer.update(gradient, state, actual)
    actual = actual + updates
    decayed = gradient + 0.1 * weights
    first = 0.9 * first + 0.1 * decayed
    second = 0.999 * second + 0.001 * decayed**2
    scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
    weights = weights - 0.003 * first / (1 - 0.9**step) / scale
  np.testing.assert_allclose(actual, weights, rtol=1e-5)


def test_four_devices_train_as_one():
  found = []
  for devices in (1, 4):
    made = problem(devices)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    found += fit(made, mesh, (20, 7))
  one, four = map(np.asarray, found)
  assert len(one) == 2 * 3 + 4 * 400
  np.testing.assert_allclose(four[:6], one[:6], rtol=2e-3)
  np.testing.assert_allclose(four[6:], one[6:], rtol=0.02, atol=0.02)


def test_training_learns_and_is_repeatable():
  made = problem()
  settings = dataclasses.replace(made.settings, epochs=25)
  mesh = parallel.make_mesh(jax.devices()[:1])
  made = dataclasses.replace(made, settings=settings)
  curves = [row[:50] for row in fit(made, mesh, (24, 3), (24, 3))]
  assert curves[0] == curves[1]
  validation = curves[0][:25]
  assert min(validation) < 0.6 * validation[0]


def test_stopped_between_repetitions_goes_on_there(tmp_path):
  made, mesh = problem(), parallel.make_mesh(jax.devices()[:1])
  whole, samples = regression.run(made, mesh)
  assert list(whole["by_labelled"]) == ["8", "20"]
  assert whole["initial_weights"] == "pre-trained encoder"
  assert samples.shape == (4, 400)

  def interrupt(done, total):
    assert total == 2 * 3 * 1 + 2 * 3 * 2
    if done == 8:
      raise Stopped

  with pytest.raises(Stopped):
    regression.run(made, mesh, workdir=tmp_path, progress=interrupt)
  rest = []
  again, kept = regression.run(
    made, mesh, workdir=tmp_path, progress=lambda done, total: rest.append(done)
  )
  assert rest == list(range(7, 19))
  assert again == whole
  np.testing.assert_array_equal(kept, samples)


@pytest.fixture
def opened(monkeypatch):
  monkeypatch.setattr(experiment_lib.data, "open_source", lambda *_: SOURCE)


def test_a_run_pretrains_and_regresses(opened, tmp_path, capsys):
  measures = {"groups": ("half_translation",), "images": 10}
  config = config_lib.parse(photonics_helpers.raw_config(measures=measures))
  train.run(config, tmp_path)
  results = json.loads((tmp_path / "results.json").read_text())
  assert set(results["figures"]) == {
    "transformation",
    "collapse",
    "symmetry",
    "regression",
  }
  found = results["figures"]["symmetry"]["half_translation"]
  assert (found["num_train"], found["num_test"]) == (10, 10)
  assert set(found["per_element"]) == {"0", "1", "2", "3"}
  transformation = results["figures"]["transformation"]
  assert transformation["group"] == "half_translation"
  assert transformation["images"] == 11
  assert results["figures"]["regression"]["cells_seed"] == 7
  by_labelled = results["figures"]["regression"]["by_labelled"]
  assert 0 < by_labelled["20"]["dos_error"] < 100
  assert len(by_labelled["8"]["dos_error_minimum_over_test_each"]) == 2
  assert (tmp_path / "summary.png").stat().st_size > 10_000
  printed = " ".join(capsys.readouterr().out.split())
  for text in (
    "DOS error",
    "Transformation prediction accuracy (group half_translation,",
  ):
    assert text in printed
  # test_main covers repetitions of other evaluations.
  alone = {"mode": "evaluate", "evaluations": ("photonics",)}
  again = photonics_helpers.raw_config(**alone)
  again["regression"] |= {"labelled": (8,), "repetitions": 1}
  train.run(config_lib.parse(again), tmp_path)
  results = json.loads((tmp_path / "results.json").read_text())
  assert list(results["figures"]["regression"]["by_labelled"]) == ["8"]
  assert not (tmp_path / "probe").exists()


def test_without_pretraining_each_repetition_begins_elsewhere(opened, tmp_path):
  fields = photonics_helpers.raw_config(epochs=0)
  fields["equivariance"]["weight"] = 0.0
  with pytest.raises(UsageError, match="transformation needs a trained enc"):
    train.run(config_lib.parse(fields), tmp_path)
  config = config_lib.parse(fields | {"evaluations": ("photonics",)})
  train.run(config, tmp_path)
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["step"] == 0 and not (tmp_path / "checkpoints").exists()
  assert set(results["figures"]) == {"regression"}
  found = results["figures"]["regression"]
  assert found["initial_weights"] == "random"
  made = config.regression.problem(experiment_lib.build(config), None)
  mesh = parallel.make_mesh(jax.devices()[:1])
  trainer = regressor.Trainer(made, mesh)
  kernels = [
    trainer.create(np.uint32(seed), None).params["encoder"]["conv1"]
    for seed in (0, 1)
  ]
  assert np.any(kernels[0]["kernel"] != kernels[1]["kernel"])


def test_pretrained_weights_are_begun_with():
  made = problem()
  trainer = regressor.Trainer(made, build().mesh)
  state = trainer.create(np.uint32(3), made.encoder)
  variables = {"params": state.params, **state.variables}
  for kind in ("params", "batch_stats"):
    jax.tree.map(
      np.testing.assert_array_equal,
      variables[kind]["encoder"],
      made.encoder[kind],
    )


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"labelled": (8, 25)}, "labelled asks for 25 cells, but .* train has 24"),
    ({"batch_size": 7}, "regression.batch_size 7 is not divisible by the 2"),
    ({"labelled": (4,)}, "batch_size 8 is more than the 4 labelled cells"),
  ],
)
def test_wrong_numbers_are_named_before_pretraining(changes, expected):
  made = problem(2)
  settings = dataclasses.replace(made.settings, **changes)
  mesh = parallel.make_mesh(jax.devices()[:2])
  with pytest.raises(UsageError, match=expected):
    regression.run(dataclasses.replace(made, settings=settings), mesh)
  config = dataclasses.replace(build(2).config, regression=settings)
  with pytest.raises(UsageError, match=expected):
    bench_lib.make(experiment_lib.build(config, SOURCE, mesh))


def test_a_norm_that_sees_one_value_of_a_cell_is_refused():
  """Refuses it before pre-training; the unit cells' network has more pixels."""
  made, mesh = problem(), build().mesh
  settings = dataclasses.replace(made.settings, batch_size=1)
  made = dataclasses.replace(made, settings=settings)
  made.check_norms(mesh)
  small = resnet.ResNet(width=2, blocks=(1, 1, 1, 1))  # leaves one pixel
  model = encoder.DensityRegressor(small, encoder.density_head(2))
  made = dataclasses.replace(made, model=model, encoder=None)
  with pytest.raises(UsageError, match="layer4_0/.*regression.batch_size"):
    made.check_norms(mesh)
  with pytest.raises(UsageError, match="layer4_0/.*regression.batch_size"):
    fit(made, mesh, (8, 0))


def test_no_step_is_taken_with_wrong_numbers(opened, tmp_path):
  config = config_lib.parse(photonics_helpers.raw_config())
  wrong = dataclasses.replace(config.regression, labelled=(25,))
  config = dataclasses.replace(config, regression=wrong)
  with pytest.raises(UsageError, match="asks for 25 cells"):
    train.run(config, tmp_path)
  assert not (tmp_path / "checkpoints").exists()
  assert not (tmp_path / "metrics-0.jsonl").exists()
