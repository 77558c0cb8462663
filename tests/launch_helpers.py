"""Runs the scripts of `docs/launch/` with a simulated cluster.

Programs that are not here (gcloud, kubectl, srun) are scripts that note their
arguments and give the answers of a test.
"""

import os
import pathlib
import subprocess

from absl import flags
from absl.testing import flagsaver
import yaml

from essl_jax import command_line, main
from essl_jax.config import flags as config_flags

assert main.command_line is command_line  # it defines the flags that are read
ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "docs" / "launch"
SLICES = {
  "v5e-16": ("v5litepod-16", "ct5lp-hightpu-4t", "tpu-v5-lite-podslice"),
  "v6e-16": ("v6e-16", "ct6e-standard-4t", "tpu-v6e-slice"),
}
PLACES = {"BUCKET": "images", "ZONE": "us-east5-b"}
GKE = PLACES | {
  "IMAGE": "us-docker.pkg.dev/project/essl/essl:1",
  "CLUSTER": "cluster",
  "LOCATION": "us-east5",
}
FAKE = """#!/bin/bash
separator=$'\\x1f'
(IFS=$separator; echo "${0##*/}$separator$*") >>"$CALLS"
"""
# Each answer is given once, the last ones again and again; LOST is no answer.
GCLOUD = """
answer() {
  sed -n 1p "$1"
  if [ "$(wc -l <"$1")" -gt 1 ]; then sed -i 1d "$1"; fi
}
case "$*" in
  *"queued-resources list"*) answer "$CALLS.states" | grep -v '^LOST$' ;;
  *"systemctl show"*) answer "$CALLS.services" ;;
  "storage cp"*) cat >/dev/null ;;
esac
"""


class Machine:
  """A folder of fake programs that record how they are called."""

  def __init__(self, folder):
    self.programs = folder / "programs"
    self.programs.mkdir()
    self.noted = folder / "calls"

  def fake(self, name, body=""):
    """Adds a program, which records its call and then runs its body."""
    path = self.programs / name
    path.write_text(FAKE + body)
    path.chmod(0o755)

  def answer(self, kind, *lines):
    """What `GCLOUD` says, one call after the other."""
    pathlib.Path(f"{self.noted}.{kind}").write_text("\n".join(lines) + "\n")

  def run(self, *words, **variables):
    """A script with its arguments and with variables of the environment."""
    own = {"PATH": f"{self.programs}:{os.environ['PATH']}"}
    own |= {"CALLS": str(self.noted), "HOME": str(self.noted.parent)}
    return subprocess.run(
      ["bash", *map(str, words)],
      cwd=ROOT,
      env=own | variables,
      capture_output=True,
      text=True,
      timeout=60,
      check=False,
    )

  def calls(self, *beginning):
    """The calls so far that begin with some words, as lists of words."""
    lines = self.noted.read_text().splitlines() if self.noted.exists() else []
    found = [line.split("\x1f") for line in lines]
    return [x for x in found if x[: len(beginning)] == list(beginning)]


def parse(words):
  """The config and the flags of a command line of the program."""
  assert words[:3] == ["python", "-m", "essl_jax.main"]
  with flagsaver.flagsaver():
    rest = command_line.parse(words[2:])
    config = config_flags.load(command_line.CONFIG.value, rest[1:])
    return config, flags.FLAGS.flag_values_dict()


def queued(machine, slice_, states, services):
  """Runs the script of queued resources on what Google would answer."""
  machine.fake("gcloud", GCLOUD)
  machine.fake("git")
  machine.answer("states", *states)
  machine.answer("services", *services)
  return machine.run(
    LAUNCH / "queued_resources.sh", slice_, **PLACES, SECONDS_BETWEEN="0"
  )


QUEUED = ("gcloud", "compute", "tpus", "queued-resources")


def start_jobset(machine, slice_):
  """What kubectl gets of the manifest, for a slice that has no pool yet."""
  machine.fake("gcloud")
  machine.fake("kubectl", 'cat >"$CALLS.manifest"')
  done = machine.run(LAUNCH / "gke.sh", slice_, **GKE)
  assert done.returncode == 0, done.stderr
  text = pathlib.Path(f"{machine.noted}.manifest").read_text()
  assert "${" not in text
  return yaml.safe_load(text)
