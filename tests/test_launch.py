"""The files of `docs/launch/`, as far as they can be tried here."""

import configparser
import os
import re
import shutil
import subprocess
import sys

import launch_helpers
from launch_helpers import LAUNCH, ROOT
import pytest

SHELL = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.fixture
def machine(tmp_path):
  return launch_helpers.Machine(tmp_path)


def test_the_command_stands_in_one_place():
  named = [x.name for x in LAUNCH.iterdir() if "essl_jax.main" in x.read_text()]
  assert named == ["train.sh"]


@pytest.mark.quick
@pytest.mark.parametrize("path", SHELL, ids=lambda x: x.name)
def test_shell_is_sound(path):
  subprocess.run(["bash", "-n", path], check=True)
  assert os.access(path, os.X_OK) or path.suffix == ".sbatch"
  places = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
  if (shellcheck := shutil.which("shellcheck", path=places)) is None:
    pytest.skip("shellcheck is not installed")
  found = subprocess.run(
    [shellcheck, path], capture_output=True, text=True, check=False
  )
  assert found.returncode == 0, found.stdout


@pytest.mark.quick
def test_the_command_parses(machine, monkeypatch):
  monkeypatch.chdir(ROOT)
  machine.fake("python")
  done = machine.run(LAUNCH / "train.sh", "--join_timeout=60", BUCKET="images")
  assert done.returncode == 0, done.stderr
  config, given = launch_helpers.parse(*machine.calls())
  assert config.epochs == 100
  assert config.data.dir == "gs://images/tfds"
  assert given["workdir"] == "gs://images/runs/essl"
  assert (given["stop_code"], given["join_timeout"]) == (75, 60)


@pytest.mark.quick
def test_the_command_ends_with_the_programs_code(machine):
  machine.fake("python", "exit 75")
  done = machine.run(LAUNCH / "train.sh", BUCKET="images")
  assert (done.returncode, done.stderr) == (75, "")


@pytest.mark.quick
@pytest.mark.parametrize(
  ("script", "words", "variables", "says"),
  [
    ("train.sh", [], {}, "BUCKET is not set"),
    ("queued_resources.sh", [], launch_helpers.PLACES, "give v5e-16 or v6e-16"),
    (
      "queued_resources.sh",
      ["v4-32"],
      launch_helpers.PLACES,
      "no such slice here: v4-32",
    ),
    ("queued_resources.sh", ["v6e-16"], {"BUCKET": "b"}, "ZONE is not set"),
    ("gke.sh", ["v4-32"], launch_helpers.GKE, "no such slice here: v4-32"),
    ("gke.sh", ["v6e-16"], launch_helpers.PLACES, "IMAGE is not set"),
  ],
)
def test_wrong_input_is_one_line(machine, script, words, variables, says):
  for name in ("gcloud", "kubectl", "git", "python"):
    machine.fake(name)
  done = machine.run(LAUNCH / script, *words, **variables)
  assert done.returncode == 2
  assert says in done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert not machine.calls()


@pytest.mark.quick
@pytest.mark.parametrize("image", ["", "registry#essl:1"])
@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_slurm_starts_a_stopped_run_again(machine, monkeypatch, image, code):
  monkeypatch.chdir(ROOT)
  machine.fake("python")
  # The rest of its words is the command of each task.
  machine.fake("srun", 'until [ "$1" = bash ]; do shift; done; "$@"\n')
  machine.fake("scontrol")
  with open(machine.programs / "python", "a") as program:
    program.write(f"exit {code}\n")
  variables = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64"}
  variables |= {"BUCKET": "images"}
  if image:
    variables |= {"IMAGE": image, "GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}
  done = machine.run(LAUNCH / "slurm.sbatch", **variables)
  assert (done.returncode, done.stderr) == (code, "")
  again = [["scontrol", "requeue", "7"]] if code == 75 else []
  assert machine.calls("scontrol") == again
  (step,) = machine.calls("srun")
  assert "--cpus-per-task=64" in step  # srun does not take it over
  assert (f"--container-image={image}" in step) == bool(image)
  assert ("--container-mounts=/key.json:/key.json:ro" in step) == bool(image)
  _, given = launch_helpers.parse(*machine.calls("python"))
  assert given["local_device_ids"] == [str(x) for x in range(8)]


def test_slurm_asks_for_what_its_processes_use():
  text = (LAUNCH / "slurm.sbatch").read_text()
  asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
  assert (asked["nodes"], asked["ntasks-per-node"]) == ("2", "1")
  assert asked["gpus-per-node"] == "8"
  assert "requeue" in asked
  notice = int(asked["signal"].removeprefix("TERM@"))
  # Nothing kills the others while they save.
  assert notice < int(re.search(r"--wait=(\d+)", text)[1])
  assert "--kill-on-bad-exit=0" in text


@pytest.mark.parametrize("slice_", launch_helpers.SLICES)
def test_a_preempted_slice_is_asked_for_again(machine, slice_):
  states = ["", "PROVISIONING", "LOST", "ACTIVE", "SUSPENDING", "SUSPENDED", ""]
  services = ["", "running", "auto-restart", "exited"]
  done = launch_helpers.queued(machine, slice_, [*states, "ACTIVE"], services)
  assert done.returncode == 0, done.stderr
  made = machine.calls(*launch_helpers.QUEUED, "create")
  assert len(made) == len(machine.calls(*launch_helpers.QUEUED, "delete")) == 2
  assert made[0] == made[1]
  assert f"--accelerator-type={launch_helpers.SLICES[slice_][0]}" in made[0]
  assert "--spot" in made[0]
  startup = dict(re.findall(r"--([\w-]+)=(.*)", "\n".join(made[0])))
  _, _, path = startup["metadata-from-file"].partition("startup-script=")
  assert (ROOT / path).exists()
  assert startup["metadata"] == "bucket=images"


@pytest.mark.parametrize(
  ("states", "services", "code"),
  [
    (["", "ACTIVE"], ["running", "failed"], 2),  # wrong input
    (["", "FAILED"], [""], 1),
    (["ACTIVE", "LOST", "ACTIVE"], ["running", "exited"], 0),
    (["ACTIVE"], ["exited"], 0),  # begun by an earlier start of the script
  ],
)
def test_a_slice_that_is_of_no_use_is_deleted(machine, states, services, code):
  done = launch_helpers.queued(machine, "v6e-16", states, services)
  assert done.returncode == code, done.stderr
  assert len(machine.calls(*launch_helpers.QUEUED, "delete")) == 1


@pytest.mark.quick
def test_nothing_is_asked_for_without_a_first_answer(machine):
  done = launch_helpers.queued(machine, "v6e-16", ["LOST"], [""])
  assert done.returncode == 1
  assert not machine.calls(*launch_helpers.QUEUED, "create")


@pytest.mark.quick
def test_a_failed_installation_is_no_wrong_input(machine):
  """Codes other than 2 let systemd begin again; tar ends with 2."""
  machine.fake("curl", "echo images")
  machine.fake("gcloud", "exit 1")
  machine.fake("tar", "exit 2")
  done = machine.run(LAUNCH / "tpu_vm.sh", "train")
  assert (done.returncode, done.stderr) == (1, "")
  assert machine.calls("tar")


def test_what_is_installed_exists():
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  extras = set(setup["options.extras_require"])
  text = (LAUNCH / "tpu_vm.sh").read_text()
  (named,) = re.findall(r"\[(\w+(?:,\w+)+)\]", text)
  assert set(named.split(",")) <= extras


@pytest.mark.slow  # each start of gcloud takes seconds
@pytest.mark.skipif(not shutil.which("gcloud"), reason="there is no gcloud")
def test_gcloud_has_the_flags(machine, tmp_path):
  """Without an account it ends with 1 where it knows all flags, else with 2."""
  launch_helpers.start_jobset(machine, "v6e-16")
  launch_helpers.queued(machine, "v6e-16", ["", "ACTIVE"], ["failed"])
  calls = list({tuple(x[:5]): x for x in machine.calls("gcloud")}.values())
  assert len(calls) == 7
  settings = {
    "HOME": str(tmp_path),
    "CLOUDSDK_CONFIG": str(tmp_path / "no account"),
    "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
    "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
    "CLOUDSDK_CORE_PROJECT": "none",
  }
  for words in (*calls, [*calls[0], "--no-such-flag"]):
    done = subprocess.run(
      words,
      cwd=ROOT,
      env=os.environ | settings,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    is_wrong = words[-1] == "--no-such-flag"
    assert done.returncode == (2 if is_wrong else 1), done.stderr
    assert ("active account" in done.stderr) != is_wrong
