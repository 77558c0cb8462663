"""Runs the program many times in one process, disturbed and then again.

A start of the program takes ten times as long as its tiny run, so the cases
share one process, its compiled steps and evaluations. What ends the process,
`processes.end`, raises SystemExit here.

  FAULTS=control LD_PRELOAD=inject.so python fault_worker.py FOLDER
"""

import contextlib
import functools
import io
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
from PIL import Image
import program_helpers

from essl_jax import main
from essl_jax.devices import processes
from essl_jax.evaluation import drawing, pictures
from essl_jax.storage import checkpoint, metrics
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
  """Captures everything written to stdout and stderr, also from C++."""
  with tempfile.TemporaryFile() as file:
    kept = [os.dup(1), os.dup(2)]
    texts = []
    sys.stdout.flush()
    for target in (1, 2):
      os.dup2(file.fileno(), target)
    # In a process of pytest, Python's own streams do not write to 1 and 2.
    own = sys.stdout, sys.stderr
    try:
      with open(1, "w", closefd=False) as stream:
        sys.stdout = sys.stderr = stream
        yield texts
    finally:
      sys.stdout, sys.stderr = own
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
  lines = metrics.read(workdir)
  for line in (*lines, training["last_step"]):
    line.pop("wall_time", None)
  return results, training["steps"], training["last_step"], lines


def differences(workdir: pathlib.Path, expected: pathlib.Path) -> str:
  """Lists the arrays and figures of a run that differ from another's."""
  if (here := figures(workdir)) != (there := figures(expected)):
    return f"figures {here} instead of {there}"
  try:
    jax.tree.map(
      np.testing.assert_array_equal, arrays(workdir), arrays(expected)
    )
  except (AssertionError, ValueError) as error:
    return f"arrays: {error}"
  return ""


def recovers(
  recipe: pathlib.Path, workdir: pathlib.Path, expected: pathlib.Path
) -> str:
  """Starts the program again in a workdir; returns what is then wrong."""
  code, output, _ = start(recipe, workdir)
  if code:
    return f"no recovery, code {code}: {output[-2000:]}"
  if difference := differences(workdir, expected):
    return difference
  left = [x.name for x in workdir.rglob("*tmp*")]
  return f"left behind: {left}" if left else ""


def told_well(code: int, output: str, seconds: float) -> list[str]:
  """Says what is wrong with the end of a disturbed start; empty if nothing.

  It ends within ten seconds with code 1 and one line; with code 2 where it may
  not write to the workdir it was given. What it can do without, such as the
  picture, may cost a warning.
  """
  lines = output.splitlines()
  errors = [line for line in lines if line.startswith("error: ")]
  warnings = [line for line in lines if line.startswith("warning: ")]
  wrong = []
  if code not in (0, 1) and (code, "--workdir" in output) != (2, True):
    wrong.append(f"code {code}")
  if code and lines[-1:] != errors:
    wrong.append("not one line at the end")
  if not code and errors:
    wrong.append("errors and code 0")
  if len(warnings) > 1:
    wrong.append("more than one warning")
  if re.search("Traceback|Exception|ERROR", output):
    wrong.append("a trace")
  if seconds > 10:
    wrong.append(f"{seconds:.0f} s")
  return wrong


def outcome(
  case: dict[str, Any],
  control: injection.Control,
  recipe: pathlib.Path,
  workdir: pathlib.Path,
  expected: pathlib.Path,
) -> dict[str, Any]:
  """One case: a disturbed start, and the same one again.

  Args:
    case: of `Control.arm`.
    control: of the preloaded library.
    recipe: to run.
    workdir: new.
    expected: the workdir of an undisturbed run.

  Returns:
    How often the call failed, the exit code, and what is wrong.
  """
  control.arm(workdir, **case)
  code, output, seconds = start(recipe, workdir)
  control.armed = 0
  wrong = told_well(code, output, seconds)
  if code and not control.fired:
    wrong.append("failed of nothing")
  if (
    workdir.exists()
  ):  # its threads still run here, unlike after the end of a process
    workdir = workdir.rename(workdir.with_suffix(".ended"))
  if failure := recovers(recipe, workdir, expected):
    wrong.append(failure)
  told = re.findall("^(?:error|warning): .*", output, re.MULTILINE)
  found = {"fired": control.fired, "code": code, "told": told, "wrong": wrong}
  return found | ({"output": output[-3000:]} if wrong else {})


def photographed(
  control: injection.Control,
  recipe: pathlib.Path,
  folder: pathlib.Path,
) -> list[pathlib.Path]:
  """The workdirs that `kill -9` would leave, before each changing call.

  Other calls on the workdir wait while one is being done or photographed, so
  each photograph is a moment. Equal ones are kept once.
  """
  folder.mkdir()
  control.arm(folder / "run", action=injection.PHOTOGRAPH, photographs=folder)
  code, output, _ = start(recipe, folder / "run")
  control.armed = 0
  assert code == 0, output
  found = {}
  for number in range(1, control.count + 1):
    path = folder / str(number)
    found.setdefault(_content(path), path)
  return list(found.values())


def _content(folder: pathlib.Path) -> tuple[tuple[str, bytes | None], ...]:
  paths = sorted(folder.rglob("*"))
  return tuple(
    (str(x.relative_to(folder)), x.read_bytes() if x.is_file() else None)
    for x in paths
  )


def small_picture(workdir: pathlib.Path, *_: Any) -> pathlib.Path:
  """`summary.png` without the parts that take most of a run's time."""
  path = workdir / "summary.png"
  figure.Figure(figsize=(1, 1)).savefig(path)
  return path


def small_sheet(_: Any) -> pictures.Sheet:
  """Views that take no time to draw."""
  return pictures.Sheet(np.zeros((2, 2, 3), np.uint8), "views")


def small_png(_: Any) -> bytes:
  """A picture that is not drawn."""
  buffer = io.BytesIO()
  Image.new("RGB", (2, 2)).save(buffer, "PNG")
  return buffer.getvalue()


def tell(**found: Any) -> None:
  """Answers with a line of JSON."""
  print(json.dumps(found), flush=True)


def main_loop(folder: pathlib.Path) -> None:
  """Answers cases of the standard input, each on a line, until its end."""
  control = injection.Control.open(pathlib.Path(os.environ["FAULTS"]))
  recipe, expected = folder / "recipe.py", folder / "expected"
  recipe.write_text(RECIPE)
  sys.unraisablehook = lambda _: None  # where the program has ended
  control.arm(expected, calls=injection.CALLS)
  code, output, _ = start(recipe, expected)
  control.armed = 0
  tell(code=code, output=output, calls=control.logged())
  for number, line in enumerate(sys.stdin):
    case, workdir = json.loads(line), folder / f"case{number}"
    if "kill" in case:
      for path in photographed(control, recipe, workdir)[:: case["kill"]]:
        wrong = recovers(recipe, path, expected)
        tell(photograph=path.name, wrong=[wrong] if wrong else [])
      tell(end=True)
    else:
      case["calls"] = tuple(case["calls"])
      found = outcome(case, control, recipe, workdir, expected)
      tell(**found, case=case)
    for path in folder.glob(f"{workdir.name}*"):
      shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
  pictures.write_summary = small_picture
  pictures.make_sheet = small_sheet
  drawing.to_png = small_png
  processes.end = program_helpers.end_this_start
  experiment.build = functools.cache(experiment.build)
  main_loop(pathlib.Path(sys.argv[1]))
