"""Runs the program many times in one process, disturbed and then again.

A start of the program takes ten times as long as its tiny run, so the cases
share one process, its compiled steps and evaluations. What ends the process,
`processes.end`, raises SystemExit here.

  FAULTS=control LD_PRELOAD=inject.so python worker.py FOLDER <cases >outcomes
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from typing import Any

import injection
import jax
from matplotlib import figure
import numpy as np

from essl_jax import main
from essl_jax.devices import processes
from essl_jax.evaluation import pictures
from essl_jax.storage import checkpoint
from essl_jax.training import experiment

RECIPE = """
from essl_jax.config import base, update_views

def get_config():
  config = base(method="simclr", data="digits")
  config.update(epochs=3, batch_size=32, log_every=1)
  config.checkpoint_every_epochs = 1
  config.data.update(train_split="train[:64]", test_split="test[:40]")
  update_views(config, size=8)
  config.encoder.update(width=4, stem="cifar", blocks=(1,))
  config.projector.widths = (8, 8)
  config.equivariance.weight = 0.0
  config.optimizer.warmup_epochs = 1
  config.knn.update(k=5, every_epochs=1)
  config.evaluations = ("knn",)
  return config
"""


@contextlib.contextmanager
def captured():
  """Everything that is written to the standard outputs, also from C++."""
  with tempfile.TemporaryFile() as file:
    kept = [os.dup(1), os.dup(2)]
    texts = []
    sys.stdout.flush()
    for target in (1, 2):
      os.dup2(file.fileno(), target)
    try:
      yield texts
    finally:
      for stream in (sys.stdout, sys.stderr):
        stream.flush()
      for target, before in zip((1, 2), kept, strict=True):
        os.dup2(before, target)
        os.close(before)
      file.seek(0)
      texts.append(file.read().decode(errors="replace"))


def start(recipe: pathlib.Path, workdir: pathlib.Path, *flags: str):
  """One start of the program: its code, output and seconds."""
  sys.argv = ["main", f"--config={recipe}", f"--workdir={workdir}", *flags]
  begun, code = time.monotonic(), 0
  with captured() as texts:
    try:
      main.run()
    except SystemExit as end:
      code = end.code or 0
  return code, texts[0], time.monotonic() - begun


def arrays(workdir: pathlib.Path) -> dict[int, Any]:
  """All arrays of all checkpoints."""
  with checkpoint.Checkpoints(workdir, read_only=True) as found:
    steps = {found.choose("latest"), found.choose("best")}
    return {step: found.restore_arrays(step) for step in sorted(steps)}


def figures(workdir: pathlib.Path) -> Any:
  """All figures that do not measure time."""
  results = json.loads((workdir / "results.json").read_text())
  for name in ("environment", "config"):
    del results[name]
  training = results.pop("training")
  logged = (workdir / "metrics.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in logged]
  for line in (*lines, training["last_step"]):
    line.pop("wall_time", None)
  return results, training["steps"], training["last_step"], lines


def differences(workdir: pathlib.Path, expected: pathlib.Path) -> str:
  """What of a run's arrays and figures differs from another's."""
  if (here := figures(workdir)) != (there := figures(expected)):
    return f"figures {here} instead of {there}"
  try:
    jax.tree.map(
      np.testing.assert_array_equal, arrays(workdir), arrays(expected)
    )
  except (AssertionError, ValueError) as error:
    return f"arrays: {error}"
  return ""


def survives(case, control, recipe, workdir, expected):
  """One case: a disturbed start, and the same one again.

  Args:
    case: of `Control.arm`.
    control: of the preloaded library.
    recipe: to run.
    workdir: new.
    expected: the workdir of an undisturbed run.

  Returns:
    What was seen, and what of it is wrong: nothing if the case was survived.
  """
  control.arm(workdir, **case)
  code, output, seconds = start(recipe, workdir)
  control.armed = 0
  fired = control.fired
  lines = output.splitlines()
  wrong = []
  errors = [x for x in lines if x.startswith("error: ")]
  warnings = [x for x in lines if x.startswith("warning: ")]
  if code == 1 and (len(errors), lines[-1:]) != (1, errors):
    wrong.append("not one line")
  if code not in (0, 1) or (code and not fired):
    wrong.append(f"code {code}")
  if code == 0 and len(warnings) > 1:
    wrong.append("more than one warning")
  if re.search("Traceback|Exception|ERROR", output):
    wrong.append("a trace")
  if seconds > 10:
    wrong.append("slow")
  told = (errors or warnings or [""])[0]
  # As if the process had ended: its threads may still write.
  workdir = workdir.rename(workdir.with_suffix(".ended"))
  again, second, _ = start(recipe, workdir)
  if again:
    wrong.append(f"no recovery: code {again}, {second[-2000:]}")
  elif difference := differences(workdir, expected):
    wrong.append(difference)
  elif left := [x.name for x in workdir.rglob("*tmp*")]:
    wrong.append(f"left behind: {left}")
  if wrong:
    wrong.append(output[-3000:])
  return {"code": code, "fired": fired, "told": told, "wrong": wrong}


def small_picture(workdir: pathlib.Path, *_: Any) -> pathlib.Path:
  """`summary.png` without what takes most of a run's time."""
  path = workdir / "summary.png"
  figure.Figure(figsize=(1, 1)).savefig(path)
  return path


if __name__ == "__main__":
  pictures.write_summary = small_picture
  processes.end = lambda code, **_: sys.exit(code)
  experiment.build = functools.cache(experiment.build)
  folder = pathlib.Path(sys.argv[1])
  control = injection.Control.open(pathlib.Path(os.environ["FAULTS"]))
  recipe = folder / "recipe.py"
  recipe.write_text(RECIPE)
  expected = folder / "expected"
  control.arm(expected, calls=injection.CALLS)
  print(json.dumps(start(recipe, expected)))
  control.armed = 0
  print(json.dumps(control.logged()), flush=True)
  for number, line in enumerate(sys.stdin):
    case = json.loads(line)
    case["calls"] = tuple(case.get("calls", injection.CHANGING))
    workdir = folder / f"case{number}"
    outcome = survives(case, control, recipe, workdir, expected)
    print(json.dumps(outcome | {"case": case}), flush=True)
    if not outcome["wrong"]:
      shutil.rmtree(workdir)
