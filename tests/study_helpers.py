"""A stand-in for the program, for the tests of studies."""

import json
import types

import study
import study_runner


def results(knn, seed):
  return {
    "untrained": {},
    "figures": {
      "knn": {"knn_top1": knn, "k": 200},
      "transformation": {"transformation_accuracy": 50.0},
    },
    "training": {"wall_seconds": 2.0, "source_images_per_second": 8.0},
    "environment": {
      "git_commit": "abcdef0123",
      "device_kind": "cpu",
      "device_count": 1,
      "jax": "1.0",
    },
    "config": {"seed": seed},
  }


def make_options(tmp_path, chosen, *words):
  """The options of a study in a folder of the test's."""
  folders = (f"--results={tmp_path / 'results'}", f"--workdirs={tmp_path}/w")
  return study_runner.parse(chosen, "", [*folders, *words])


def run_study(tmp_path, chosen, *words):
  """A start of a study in a folder of the test's; the exit code."""
  folders = (f"--results={tmp_path / 'results'}", f"--workdirs={tmp_path}/w")
  return study_runner.main(chosen, "", [*folders, *words])


class Runner:
  """Stands in for the program: finishes a cell at once, or fails.

  Attributes:
    ran: names of the cells that were started.
    slots: that they were given.
    stop_at: how many cells are started before Ctrl-C.
    fail: names of cells that fail.
  """

  def __init__(self, monkeypatch):
    self.ran, self.slots, self.stop_at, self.fail = [], set(), None, set()
    monkeypatch.setattr(study_runner, "start", self._start)
    monkeypatch.setattr(study_runner, "POLL_SECONDS", 0.0)

  def _start(self, cell, options, slot):
    if len(self.ran) == self.stop_at:
      raise KeyboardInterrupt
    self.ran.append(cell.name)
    self.slots.add(slot)
    workdir = options.workdirs / cell.name
    workdir.mkdir(parents=True)
    code = 0
    if cell.name in self.fail:
      code = 2
      study.log_path(cell, options).write_text("step 1\nerror: no data\n\n")
    else:
      text = json.dumps(results(10.0 * len(self.ran), cell.seed))
      (workdir / "results.json").write_text(text)
    nothing = lambda: None
    return types.SimpleNamespace(
      poll=lambda: code, terminate=nothing, wait=nothing
    )
