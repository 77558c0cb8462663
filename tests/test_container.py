"""The lock and the Dockerfile fit what `setup.cfg` asks for."""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
import pytest

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def _environment(python):
  """A machine that containers and continuous integration run on."""
  return {
    "python_version": python,
    "python_full_version": f"{python}.0",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
  }


def _requirements(text, python):
  """The requirements that apply, by name."""
  lines = (line.partition("#")[0].strip() for line in text.splitlines())
  found = {}
  for requirement in map(Requirement, filter(None, lines)):
    marker = requirement.marker
    if marker is None or marker.evaluate(_environment(python)):
      name = re.sub(r"[-_.]+", "-", requirement.name).lower()
      found.setdefault(name, []).append(requirement)
  return found


def _setup():
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg", "utf-8")
  return setup


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_release_of_each_requirement(python):
  setup = _setup()
  extras = setup["options.extras_require"]
  asked = "\n".join([setup["options"]["install_requires"], *extras.values()])
  lock = (ROOT / "requirements.lock").read_text("utf-8")
  locked = _requirements(lock, python)
  assert all(len(pins) == 1 for pins in locked.values())
  for name, requirements in _requirements(asked, python).items():
    if name == "essl-jax":  # extras of extras
      continue
    assert name in locked, f"{name}: make requirements.lock again"
    (specifier,) = locked[name][0].specifier
    assert specifier.operator == "=="
    for requirement in requirements:
      assert requirement.specifier.contains(specifier.version), requirement


def test_supported_pythons_are_those_of_the_package():
  named = re.findall(r"Python :: (3\.\d+)", _setup()["metadata"]["classifiers"])
  assert tuple(named) == PYTHONS
  (python,) = re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.M)
  assert python in PYTHONS


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu", "gpu", ""])
def test_the_container_installs_extras_that_exist(platform, tmp_path):
  """Its own command, with a `pip` that says what it was given."""
  (command,) = re.findall(r"^RUN (.*?)^\w", DOCKERFILE, re.M | re.S)
  pip = tmp_path / "pip"
  pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
  pip.chmod(0o755)
  done = subprocess.run(
    ["sh", "-c", command],
    env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PLATFORM": platform},
    capture_output=True,
    text=True,
    check=False,
  )
  if platform in ("gpu", ""):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("PLATFORM must be cpu, cuda or tpu, got")
    return
  assert done.returncode == 0, done.stderr
  *_, constraint, target = done.stdout.split()
  assert constraint == "--constraint=requirements.lock"
  extras = set(re.fullmatch(r"\.\[(.*)\]", target)[1].split(","))
  assert extras <= set(_setup()["options.extras_require"])
  assert (platform in extras) == (platform != "cpu")
  assert {"digits", "gcs", "s3"} <= extras


def test_hadolint_finds_nothing():
  places = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
  if (hadolint := shutil.which("hadolint", path=places)) is None:
    pytest.skip("hadolint is not installed")
  found = subprocess.run(
    [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
  )
  assert found.returncode == 0, found.stdout
