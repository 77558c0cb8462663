"""The warning about collapse: when it appears, and when not."""

import pytest

from essl_jax import run as run_lib
from essl_jax.training import collapse

METHOD = '''
import jax.numpy as jnp
from essl_jax.methods.two_views import TwoViews

class Pull(TwoViews):
  """All embeddings are drawn to one point, and nothing holds them apart."""

  def compare(self, outputs, full, other, *, axis_name=None):
    z = outputs.own["projections"]
    return jnp.mean((z[full] - 1) ** 2 + (z[other] - 1) ** 2)
'''


@pytest.fixture
def make(tiny_config):
  """Makes an alarm with three steps per epoch, and the list of its lines.

  The warm-up is one epoch.
  """

  def make(**fields):
    said = []
    fields = {"projector": {"widths": (32, 25)}} | fields
    return collapse.Alarm(tiny_config(**fields), 3, said.append), said

  return make


@pytest.mark.quick
def test_a_deviation_that_stays_low_for_an_epoch_is_told_once(make):
  """A twentieth of 1/sqrt(25) is the bound."""
  alarm, said = make()
  deviations = (0.0, 0.0, 0.0, 0.005, 0.0099, 0.011, 0.0, 0.0)
  for step, deviation in enumerate(deviations, 1):
    alarm.step(step, {"loss": 1.0, "embedding_std": deviation})
  assert said == []
  for step in range(9, 30):
    alarm.step(step, {"embedding_std": 0.0099})
    alarm.look(step, {"effective_rank": 0.0})
  (line,) = said
  assert line.startswith("warning: the representations collapse: the deviation")
  assert "below 0.01 for the 3 steps up to step 9 (0.2 if spread out" in line
  assert "try a lower config.optimizer.learning_rate" in line
  assert "\n" not in line


@pytest.mark.quick
def test_a_rank_that_stays_low_is_told(make):
  alarm, said = make()
  for epoch, rank in enumerate((1.0, 1.0, 1.4, 1.6, 1.4)):
    alarm.look(epoch, {"effective_rank": rank, "knn_top1": 10.0})
  assert said == []
  alarm.look(5, {"effective_rank": 1.25})
  assert "effective rank of features is 1.25 after epoch 5" in said[0]
  alarm.look(6, {})
  alarm.look(7, {"effective_rank": 1.25})
  assert len(said) == 1


@pytest.mark.quick
def test_measured_runs_that_learn_have_no_alarm(make):
  """E-BYOL's ranks after each epoch; DINO's lowest deviations of epochs."""
  alarm, said = make()
  for epoch, rank in enumerate((37.77, 6.02, 1.998, 21.07, 17.08)):
    alarm.look(epoch, {"effective_rank": rank})
  parts = (0.271, 0.199, 0.174, 0.157, 0.147, 0.141, 0.135, 0.135, 0.133, 0.132)
  for step, part in enumerate((p for p in parts for _ in range(3)), 1):
    alarm.step(step, {"embedding_std": part * 0.2})
  assert said == []


@pytest.mark.quick
def test_a_rank_of_two_for_long_has_no_alarm(make):
  alarm, said = make()
  for epoch in range(9):
    alarm.look(epoch, {"effective_rank": 1.998})
  assert said == []


@pytest.mark.quick
def test_methods_without_embeddings_have_no_alarm(make):
  alarm, said = make(method="none", projector={})
  for step in range(9):
    alarm.step(step, {"embedding_std": 0.0})
    alarm.step(step, {"loss": 0.0})
  assert said == []


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "warnings"), [("pull:Pull", 1), ("simclr", 0)]
)
def test_a_run_that_collapses_and_a_healthy_one(
  method, warnings, tmp_path, monkeypatch, capsys, tiny_config
):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "pull.py").write_text(METHOD)
  config = tiny_config(
    method,
    epochs=8,
    terms=(),
    projector={"widths": (16,), "last_norm": "none", "bias": True},
    data={"train_split": "train[:64]", "test_split": "test[:20]"},
    views={"first": {"size": 8}, "second": {"size": 8}},
    optimizer={"learning_rate": 2.0, "warmup_epochs": 1},
    evaluations=("knn", "collapse", "probe"),
    knn={"k": 5, "every_epochs": 1},
    probe={"protocol": "none"},
  )
  run_lib.run(config, tmp_path / "run")
  shown = capsys.readouterr().out
  assert shown.count("warning: the representations collapse") == warnings
