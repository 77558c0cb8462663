"""Type checkers find wrong arguments in a user's file."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RIGHT = """
import essl_jax

run = essl_jax.train("quickstart", workdir="runs/x", data={"name": "digits"})
run = essl_jax.evaluate(run, knn={"k": 5})
encoder = essl_jax.load(run.workdir, checkpoint="best")
features = encoder(["a.png", "b.jpg"])
found = essl_jax.embed(encoder, "photos", out="features.npz")
print(run.figures["knn"], found.paths[0], found.features.shape)
"""
WRONG = {
  "essl_jax.train(5)": "arg-type",
  "essl_jax.load('runs/x', checkpoint='newest')": "arg-type",
  "essl_jax.lod('runs/x')": "attr-defined",
  "essl_jax.embed('runs/x', 3)": "arg-type",
}


@pytest.mark.slow
def test_mypy_knows_the_signatures(tmp_path):
  file = tmp_path / "user.py"
  right = RIGHT.splitlines()
  file.write_text("\n".join([*right, *WRONG]))
  found = subprocess.run(
    [
      *(sys.executable, "-m", "mypy", "--follow-imports=silent"),
      *("--ignore-missing-imports", "--no-error-summary", str(file)),
    ],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env=os.environ | {"MYPYPATH": str(ROOT)},
  )
  lines = found.stdout.splitlines()
  errors = [line for line in lines if ": error: " in line]
  assert len(errors) == len(WRONG), found.stdout + found.stderr
  for line, (number, kind) in zip(
    errors, enumerate(WRONG.values(), len(right) + 1), strict=True
  ):
    assert f":{number}: error: " in line and f"[{kind}]" in line, line
