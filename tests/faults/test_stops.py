"""SIGTERM at every moment: figures and checkpoints are as without it."""

import functools
import itertools
import shutil
import signal

import fault_worker
import pytest

from essl_jax import run
from essl_jax.config import flags
from essl_jax.evaluation import pictures
from essl_jax.storage import checkpoint, preemption
from essl_jax.training import experiment

# How often a run of the recipe asks whether to stop, and where.
STEP_4, MONITOR_OF_STEP_4, STEP_6 = 9, 10, 13


@pytest.fixture(scope="module")
def program(tmp_path_factory):
  """Runs the recipe in a workdir; SIGTERM comes at the ask of a number."""
  folder = tmp_path_factory.mktemp("stops")
  (folder / "recipe.py").write_text(fault_worker.RECIPE)
  config = flags.load(str(folder / "recipe.py"), [])
  reached = preemption.Preemption.reached

  def start(workdir, at=0):
    asks = itertools.count(1)

    def disturbed(self):
      if next(asks) == at:
        signal.raise_signal(signal.SIGTERM)
      return reached(self)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(preemption.Preemption, "reached", disturbed)
      patch.setattr(pictures, "write_summary", fault_worker.small_picture)
      is_done = run.run(config, workdir)
    assert is_done == (workdir / "results.json").exists()
    return next(asks) > at  # whether it was disturbed

  with pytest.MonkeyPatch.context() as patch:
    build = functools.cache(experiment.build)
    patch.setattr(experiment, "build", build)
    start(folder / "expected")
    yield start, folder / "expected"


def stop_and_resume(program, workdir, at):
  """Whether the signal came; the run is whole after the second start."""
  start, expected = program
  was_disturbed = start(workdir, at)
  is_finished = (workdir / "results.json").exists()
  assert is_finished != was_disturbed
  start(workdir)
  assert fault_worker.differences(workdir, expected) == ""
  return was_disturbed


@pytest.mark.parametrize(
  ("at", "says"),
  [
    (1, "before the first step"),
    (STEP_4, "after step 4"),
    (MONITOR_OF_STEP_4, "after step 4"),
  ],
)
def test_figures_and_choice_do_not_depend_on_a_stop(
  at, says, program, tmp_path, capsys
):
  """The best epoch's state is measured on resuming, and chosen."""
  assert stop_and_resume(program, tmp_path / "run", at)
  assert f"stopped by SIGTERM {says}" in capsys.readouterr().out
  with checkpoint.Checkpoints(tmp_path / "run", read_only=True) as found:
    assert found.choose("best") == 4 != found.choose("latest")


def test_a_last_save_without_its_record_counts_as_training(program, tmp_path):
  """A full disk or a kill between the two leaves this."""
  start, expected = program
  workdir = shutil.copytree(expected, tmp_path / "run")
  for name in ("results.json", "starts.json"):
    (workdir / name).unlink()
  start(workdir)
  assert fault_worker.differences(workdir, expected) == ""


@pytest.mark.faults
def test_every_moment_may_be_the_one_of_a_stop(program, tmp_path):
  """Stops at every step, monitor batch and evaluation step."""
  for at in itertools.count(1):
    if not stop_and_resume(program, tmp_path / str(at), at):
      break
  print(f"{at - 1} moments of a stop")
  assert at > STEP_6


@pytest.mark.faults
def test_two_stops_in_one_epoch_are_as_none(program, tmp_path):
  """The second comes while the state of the first stop is measured."""
  start, expected = program
  assert start(tmp_path / "run", STEP_4)
  assert start(tmp_path / "run", 1)
  start(tmp_path / "run")
  assert fault_worker.differences(tmp_path / "run", expected) == ""
