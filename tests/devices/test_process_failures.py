"""Two real processes, one of which starts differently, dies or hangs."""

import json
import signal

import numpy as np
import process_helpers
import pytest


@pytest.fixture(scope="module")
def config(tiny_config):
  return process_helpers.make_config(tiny_config)


def test_different_starts_are_refused_by_all(config, tmp_path):
  """Config, workdir and a package's version differ."""
  elsewhere = f"--workdir={tmp_path / 'elsewhere'}"
  refused = process_helpers.run(
    tmp_path,
    config,
    2,
    flags={1: ["--config.seed=3", elsewhere, "--num_processes=3"]},
    changes="import essl_jax; essl_jax.__version__ = '7'\n",
  )
  assert refused.statuses == [2, 2]
  for index in range(2):
    (line,) = refused.told(index)
    assert "config.seed is 0 in process 0 and 3 in process 1" in line
    assert '/elsewhere" in process 1' in line and "--workdir is" in line
    assert "--num_processes is 2 in process 0 and 3 in process 1" in line
    assert "and 1 more: start all" in line  # the version
  assert not refused.workdir.exists()


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused_by_all(config, tmp_path):
  """The path is the same, but hosts have their own disks."""
  changes = f"""
    import pathlib
    from essl_jax.storage import workdir
    check = workdir.check_shared
    workdir._SHARED_SECONDS = 1.0
    workdir.check_shared = lambda _: check("{tmp_path / "elsewhere"}")
  """
  refused = process_helpers.run(tmp_path, config, 2, changes=changes)
  assert refused.statuses == [2, 2]
  for index in range(2):
    (line,) = refused.told(index)
    assert "is not shared: process 1 does not see" in line
  assert not refused.workdir.exists()


def _run_on_own_disks(config, folder, counts, variables=None):
  """Runs two hosts with `counts` training images; 0 means no file."""
  directories = [folder / "host0", folder / "host1"]
  for count, directory in zip(counts, directories, strict=True):
    directory.mkdir()
    images, labels = np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) % 4
    if count:
      np.savez(
        directory / "images.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:8],
        test_labels=labels[:8],
      )
  changed = json.loads(config)
  changed["data"] |= {
    "name": "images.npz",
    "train_split": "train",
    "test_split": "test",
  }
  return process_helpers.run(
    folder,
    json.dumps(changed),
    2,
    directories=directories,
    variables=variables,
  )


def test_different_data_are_refused_by_all(config, tmp_path):
  """Different counts change the steps. The processes are Open MPI ranks."""
  ranks = [
    {
      "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
      "OMPI_COMM_WORLD_SIZE": "2",
      "OMPI_COMM_WORLD_RANK": str(index),
      "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
    }
    for index in range(2)
  ]
  ended = _run_on_own_disks(config, tmp_path, (32, 48), ranks)
  assert ended.statuses == [2, 2], ended.errors
  for text in ended.errors:
    (line,) = (x for x in text.splitlines() if x.startswith("error:"))
    assert (
      "number of train images is 32 in process 0 and 48 in process 1" in line
    )
  assert not (ended.workdir / "checkpoints").exists()


def test_data_that_one_process_lacks_end_all(config, tmp_path):
  """The processes are the tasks of a SLURM step."""
  tasks = [
    {
      "SLURM_JOB_ID": "5000",
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_STEP_NUM_TASKS": "2",
      "SLURM_NTASKS": "2",
      "SLURM_PROCID": str(index),
      "SLURM_LOCALID": str(index),
    }
    for index in range(2)
  ]
  ended = _run_on_own_disks(config, tmp_path, (32, 0), tasks)
  assert ended.statuses == [2, 2], ended.errors
  (told,), (own,) = ended.told(0), ended.told(1)
  assert told == own.replace("error: ", "error: process 1: ")
  assert "images.npz" in own
  assert not (ended.workdir / "checkpoints").exists()


@pytest.mark.slow
def test_one_device_each_is_told_of_a_killed_process_in_a_line(
  config, tmp_path
):
  killed = process_helpers.run(
    tmp_path, config, 2, devices=2, disturb="SIGKILL 6 1"
  )
  assert killed.statuses == [1, -signal.SIGKILL]
  (line,) = killed.told(0)
  assert line.startswith("error: another process ended or was killed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_without_process_0_the_other_ends(name, config, tmp_path):
  """JAX aborts, unless a collective fails first."""
  lost = process_helpers.run(
    tmp_path, config, 2, disturb=f"{name} 5 0", flags=process_helpers.HEARTBEAT
  )
  assert lost.statuses[0] == {"SIGKILL": -signal.SIGKILL}.get(name)
  assert lost.statuses[1] in (1, -signal.SIGABRT), lost.errors


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_other(config, tmp_path):
  """No collective fails, so the heartbeat ends process 0."""
  frozen = process_helpers.run(
    tmp_path,
    config,
    2,
    disturb="SIGSTOP 5 1",
    flags=process_helpers.HEARTBEAT,
  )
  assert frozen.statuses == [-signal.SIGABRT, None], frozen.errors
  assert "stopped sending heartbeats" in frozen.errors[0]
