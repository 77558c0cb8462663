"""Failing evaluations, also of users: one line, and no figure is lost."""

import functools
import json
from unittest import mock

import jax
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import run as train
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import guard, pictures
from essl_jax.evaluation.evaluation import Evaluation, Row
from essl_jax.storage.preemption import Stopped
from essl_jax.training import experiment as experiment_lib

HOOKS = ("check", "monitor", "describe", "run", "rows", "draw")


class Fails(Evaluation):
  """Raises an exception in one of its methods.

  Attributes:
    hook: which.
  """

  needs_training = False
  hook: str = "run"

  def _fail(self, hook):
    if hook == self.hook:
      raise KeyError("nothing\nthere")

  def check(self, bench):
    """May fail."""
    self._fail("check")

  def monitor(self, bench, state):
    """May fail."""
    self._fail("monitor")
    return {"one": 1.0}

  def describe(self, figures):
    """May fail."""
    self._fail("describe")
    return "one"

  def run(self, bench, state):
    """May fail."""
    self._fail("run")
    return {"one": 1.0}

  def rows(self, figures):
    """May fail."""
    self._fail("rows")
    return [Row("One", "1")]

  def draw(self, bench, state, axes):
    """May fail."""
    self._fail("draw")
    return True


class Answers(Evaluation):
  """Returns a given answer."""

  answer = None

  def monitor(self, bench, state):
    """The answer."""
    return self.answer

  def run(self, bench, state):
    """The answer."""
    return self.answer

  def rows(self, figures):
    """The answer."""
    return self.answer


class Ranks(Answers):
  """Ranks checkpoints by a figure."""

  ranks = "missing"
  every_epochs: int = 1


def make_bench(evaluation):
  """A bench of one evaluation, which looks at nothing."""
  return bench_lib.Bench(mock.Mock(), mock.MagicMock(), (evaluation,))


def make_of(config, evaluations):
  """A bench of a config, of an experiment that looks at nothing."""
  experiment = mock.MagicMock(config=config, evaluations=evaluations)
  with mock.patch.object(bench_lib, "Encoding"):
    return bench_lib.make(experiment)


def call(evaluation, hook):
  """Calls a method as a run does."""
  bench = make_bench(evaluation)
  if hook == "check":
    config = mock.Mock(mode="train", epochs=1, evaluate_checkpoint="latest")
    return make_of(config, [evaluation])
  return {
    "monitor": functools.partial(bench.monitor, None, is_last=True),
    "describe": functools.partial(bench.monitor, None, is_last=True),
    "run": functools.partial(bench.run, evaluation, None),
    "rows": functools.partial(guard.rows, evaluation, {}),
    "draw": functools.partial(bench.draw, None, None),
  }[hook]()


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_is_told_in_one_line(hook):
  with pytest.raises(UsageError) as error:
    call(Fails(hook), hook)
  name = f"config.evaluations={Fails.__module__}:Fails"
  assert str(error.value) == f"{name}, {hook}: KeyError: 'nothing\\nthere'"


@pytest.mark.parametrize("kind", [UsageError, FloatingPointError, Stopped])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_no_mistake_of_an_evaluation_passes(hook, kind, monkeypatch):
  error = kind("unchanged")
  monkeypatch.setattr(Fails, hook, mock.Mock(side_effect=error))
  with pytest.raises(kind) as found:
    call(Fails(), hook)
  assert found.value is error


@pytest.mark.parametrize(
  ("hook", "answer", "says"),
  [
    ("monitor", None, "must return a dict of numbers, not NoneType"),
    ("monitor", np.ones(3), "must return a dict of numbers, not ndarray"),
    ("monitor", {"a": "much"}, "a must be a number; got 'much'"),
    ("monitor", {"a": np.ones(3)}, "a must be a number; got array"),
    ("run", [1.0], "must return a dict or None, not list"),
    ("run", {"a": {1, 2}}, "set is not JSON serializable"),
    ("rows", None, "must return a list of Row.* got None"),
    ("rows", Row("One", "1"), "must return a list of Row"),
    ("rows", [Row("One", 1.0)], r"all of them text; got \[.*value=1.0"),
  ],
)
def test_answers_of_another_kind_are_refused(hook, answer, says, monkeypatch):
  monkeypatch.setattr(Answers, "answer", answer)
  with pytest.raises(UsageError, match=f"Answers, {hook}: .*{says}") as error:
    call(Answers(), hook)
  assert "\n" not in str(error.value)


def test_plain_tuples_are_rows(monkeypatch):
  monkeypatch.setattr(Answers, "answer", [("One", "1"), ["Two", "2", "note"]])
  rows = call(Answers(), "rows")
  assert rows == [Row("One", "1", ""), Row("Two", "2", "note")]
  assert all(isinstance(row, Row) for row in rows)


def test_the_figure_that_ranks_is_asked_for_before_training(monkeypatch):
  monkeypatch.setattr(Ranks, "answer", {"other": 1.0, "more": 2})
  with pytest.raises(UsageError, match="missing, which `ranks` .* other, more"):
    make_bench(Ranks()).monitor(None)
  # It ranks no checkpoint.
  found, _ = make_bench(Ranks(every_epochs=0)).monitor(None, is_last=True)
  assert found == {"other": 1.0, "more": 2}


@pytest.mark.parametrize(
  ("name", "value", "says"),
  [
    ("every_epochs", -1, "must be a whole number, 0 or more; got -1"),
    ("every_epochs", "2", "must be a whole number, 0 or more; got '2'"),
    ("modes", ("train", "test"), "must be a tuple of some of train, evaluate"),
    ("modes", "train", "must be a tuple of some of train, evaluate"),
  ],
)
def test_wrong_settings_are_refused_before_training(
  name, value, says, monkeypatch
):
  monkeypatch.setattr(Ranks, name, value)
  evaluation = Ranks(value) if name == "every_epochs" else Ranks()
  with pytest.raises(UsageError, match=f"Ranks, {name}: {says}"):
    call(evaluation, "check")


def test_the_best_checkpoint_is_that_of_another_mode(tiny_config):
  """Training has ranked checkpoints by kNN, which does not fine-tune."""

  def make(**fields):
    mode = {"mode": "finetune", "evaluate_checkpoint": "best"}
    config = tiny_config(**mode, **fields)
    return make_of(config, config_lib.evaluations(config))

  assert [x.name for x in make().evaluations] == ["finetune"]
  with pytest.raises(UsageError, match="best needs an evaluation that ranks"):
    make(knn={"every_epochs": 0})


@pytest.mark.parametrize("hook", ["run", "rows", "draw"])
def test_a_failing_evaluation_costs_no_figure_of_others(
  hook, tmp_path, tiny_config, capsys
):
  """A picture does not even cost the exit code."""
  config = tiny_config(
    epochs=0,
    data={"train_split": "train[:64]", "test_split": "test[:40]"},
    evaluations=("knn", f"{__name__}:Fails"),
    fails={"hook": hook},
    optimizer={"warmup_epochs": 0},
    probe=None,
  )
  if hook == "draw":
    with mock.patch("essl_jax.evaluation.knn.Knn.draw", lambda *_: False):
      train.run(config, tmp_path)
    printed = capsys.readouterr().out
    (line,) = [x for x in printed.splitlines() if x.startswith("warning: no")]
    assert "no summary.png" in line and "Fails, draw: KeyError" in line
    assert "kNN top-1" in printed and "picture" not in printed
  else:
    with pytest.raises(UsageError, match=f"Fails, {hook}: KeyError"):
      train.run(config, tmp_path)
  # A run without results.json is not finished: the same command resumes.
  name = "results.partial.json" if hook == "run" else "results.json"
  assert [x.name for x in tmp_path.glob("results*")] == [name]
  results = json.loads((tmp_path / name).read_text())
  assert results["figures"]["knn"]["num_queries"] == 40
  assert ("fails" in results["figures"]) == (hook != "run")
  assert results["config"]["fails"] == {"hook": hook}


def test_images_that_are_not_square_are_drawn(tmp_path, tiny_config):
  """Images of any sides are drawn, in a sheet whose size is bounded."""
  random = np.random.default_rng(0)
  for shape in ((12, 30), (30, 12), (16, 16), (9, 20_000)):
    images = random.integers(0, 256, (40, *shape, 3), np.uint8)
    experiment = experiment_lib.build(
      tiny_config(),
      source=ArraySource(images, np.arange(40) % 3, images, np.arange(40) % 3),
      mesh=parallel.make_mesh(jax.devices()[:1]),
    )
    bench = bench_lib.Bench(experiment, mock.MagicMock())
    state = experiment.create_state()
    path = pictures.write_summary(tmp_path, bench, state)
    assert path.stat().st_size > 10_000
    path.unlink()
