"""Compares two real processes of two devices with one process of four."""

import json
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import process_helpers
import pytest
import step_helpers

from essl_jax import config as config_lib
from essl_jax.devices import parallel
from essl_jax.storage import checkpoint

STEPS = 8
LOSSES = ("loss", "loss_ssl", "loss_equivariance")


@pytest.fixture(scope="module")
def config(tiny_config):
  return process_helpers.make_config(tiny_config)


@pytest.fixture(scope="module")
def pair(config, tmp_path_factory):
  return process_helpers.run(tmp_path_factory.mktemp("pair"), config, 2)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
  return process_helpers.run(tmp_path_factory.mktemp("alone"), config, 1)


def test_both_processes_end_well_and_one_speaks(pair):
  assert pair.statuses == [0, 0], pair.errors
  text = "\n".join(pair.printed[0])
  assert "on 4 cpu device(s)" in text
  assert f"step {STEPS}/{STEPS}" in text
  assert "Linear probe top-1" in text
  assert pair.printed[1] == []


def test_one_process_writes(pair):
  assert pair.statuses == [0, 0], pair.errors
  assert pair.results()["step"] == STEPS
  assert sorted(pair.history()) == list(range(STEPS + 1))
  assert len(list((pair.workdir / "tensorboard").glob("events*"))) == 1
  names = {path.name for path in pair.workdir.iterdir()}
  assert names >= {"config.json", "metrics-0.jsonl", "checkpoints"}
  assert not [name for name in names if name.endswith(".tmp")]


def test_two_processes_train_as_one_does(pair, alone):
  """Data order, augmentation, negatives and statistics span the processes.

  The warm-up begins at a learning rate of 0, so two steps see the same weights
  and their losses agree to rounding. In later steps rounding errors have grown.
  """
  assert pair.statuses == [0, 0], pair.errors
  assert alone.statuses == [0], alone.errors
  actual, expected = pair.history(), alone.history()
  for step in range(1, STEPS + 1):
    assert actual[step].keys() == expected[step].keys()
    tolerance = 1e-5 if step <= 2 else 2e-2
    for name in LOSSES:
      np.testing.assert_allclose(
        actual[step][name],
        expected[step][name],
        rtol=tolerance,
        err_msg=f"{name}, step {step}",
      )
  assert expected[1]["learning_rate"] == 0 < expected[2]["learning_rate"]


def test_two_processes_measure_as_one_does(pair, alone):
  """Figures of the untrained encoder may differ by 1 of the 40 test images."""
  assert pair.statuses == [0, 0], pair.errors
  assert alone.statuses == [0], alone.errors
  actual, expected = pair.results(), alone.results()
  np.testing.assert_allclose(
    actual["untrained"]["knn_top1"],
    expected["untrained"]["knn_top1"],
    atol=100 / 40 + 1e-6,
  )
  assert actual["figures"].keys() == expected["figures"].keys()
  for name in actual["figures"]:
    assert actual["figures"][name].keys() == expected["figures"][name].keys()
  for name, sizes in (
    ("knn", ("bank_size", "num_queries")),
    ("transformation", ("images",)),
    ("linear_probe", ("num_train", "num_test")),
  ):
    for size in sizes:
      assert actual["figures"][name][size] == expected["figures"][name][size]
  nothing = {"number": 0, "names": []}
  assert actual["data"]["broken"] == {"train": nothing, "test": nothing}


THREE_STEPS = """
  import json, os, sys
  import jax
  import numpy as np
  address, process, config, out = sys.argv[1:]
  jax.distributed.initialize(address, 2, int(process))
  import step_helpers
  from essl_jax import config as config_lib
  from essl_jax.devices import parallel

  config = config_lib.parse(json.loads(config))
  mesh = parallel.make_mesh()
  with jax.enable_x64(True):
    state, step = step_helpers.exact_parts(config)
    step = parallel.map_step(step, mesh)
    state = parallel.replicate(state, mesh)
    for batch in step_helpers.view_batches(config):
      half = lambda x: np.split(x, 2)[int(process)]
      state, _ = step(state, parallel.shard(jax.tree.map(half, batch), mesh))
    if process == "0":
      leaves = [np.asarray(x) for x in jax.tree.leaves(state)]
      np.savez(out, *leaves)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "barlow_twins"])
def test_two_processes_have_the_parameters_of_one(
  method, tiny_config, tmp_path
):
  """After three float64 steps, state and momenta match one device to 1e-5.

  In float32, a pre-activation within rounding of zero can fall on either side
  of a ReLU; see `test_devices`.
  """
  config = tiny_config(method)
  out = tmp_path / "state.npz"
  process_helpers.run_code(
    THREE_STEPS, json.dumps(config_lib.to_dict(config)), str(out)
  )
  with np.load(out) as file:
    actual = [file[name] for name in file.files]
  with jax.enable_x64(True):
    state, step = step_helpers.exact_parts(config)
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = parallel.map_step(step, mesh)
    for batch in step_helpers.view_batches(config):
      state, _ = step(state, batch)
    expected = jax.tree.leaves(jax.device_get(state))
  for got, wanted in zip(actual, expected, strict=True):
    scale = max(np.max(np.abs(wanted)), 1e-3)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
def test_two_processes_are_preempted_and_resume(config, pair, tmp_path):
  """SIGTERM to one stops both; both resume without a trace."""
  assert pair.statuses == [0, 0], pair.errors
  stopped = process_helpers.run(tmp_path, config, 2, disturb="SIGTERM 5 1")
  assert stopped.statuses == [0, 0], stopped.errors
  assert "stopped by SIGTERM after step" in stopped.printed[0][-1]
  assert stopped.printed[1] == []
  last = max(stopped.history())
  assert 2 <= last < STEPS - 1
  assert checkpoint.exists(stopped.workdir)
  resumed = process_helpers.run(tmp_path, config, 2)
  assert any(f"from step {last} of" in line for line in resumed.printed[0])
  _assert_same_run(resumed, pair)


@pytest.mark.slow
def test_two_processes_are_preempted_between_programs(config, tmp_path):
  """The signal also counts if several steps are one program."""
  fields = json.loads(config) | {"steps_per_dispatch": 2}
  fields["data"]["on_device"] = True
  stopped = process_helpers.run(
    tmp_path,
    json.dumps(fields),
    2,
    disturb="SIGTERM 5 1",
    flags=dict.fromkeys(range(2), ["--stop_code=75"]),
  )
  assert stopped.statuses == [75, 75], stopped.errors
  assert "2 steps a program" in stopped.printed[0][0]
  assert "stopped by SIGTERM after step" in stopped.printed[0][-1]
  assert max(stopped.history()) in (2, 4, 6)


@pytest.mark.slow
def test_two_processes_are_killed_and_resume(config, pair, tmp_path):
  """`kill -9` of one ends the other, through a collective or the heartbeat.

  Of a process's two devices, one may wait for the other, whose collective has
  failed, until JAX aborts.
  """
  killed = process_helpers.run(
    tmp_path, config, 2, disturb="SIGKILL 6 1", flags=process_helpers.HEARTBEAT
  )
  status, victim = killed.statuses
  assert victim == -signal.SIGKILL
  assert status in (1, -signal.SIGABRT), killed.errors
  if status == 1:
    (line,) = killed.told(0)
    assert line.startswith("error: another process ended or was killed")
  resumed = process_helpers.run(tmp_path, config, 2)
  assert any("from step 4 of" in line for line in resumed.printed[0])
  _assert_same_run(resumed, pair)


def _assert_same_run(resumed, pair):
  """Asserts equality bit for bit."""
  assert resumed.statuses == [0, 0], resumed.errors
  actual, expected = resumed.history(), pair.history()
  assert actual.keys() == expected.keys()
  for step, figures in expected.items():
    for name in figures.keys() - {"wall_time"}:
      assert actual[step][name] == figures[name], (step, name)
  assert resumed.results()["figures"] == pair.results()["figures"]
  for one, other in zip(_arrays(resumed), _arrays(pair), strict=True):
    np.testing.assert_array_equal(one, other)


def _arrays(finished):
  """Returns all arrays of the latest checkpoint."""
  with ocp.CheckpointManager(finished.workdir / "checkpoints") as manager:
    step = manager.latest_step()
    path = finished.workdir / "checkpoints" / str(step) / "state"
  with ocp.PyTreeCheckpointer() as checkpointer:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = checkpointer.metadata(path).item_metadata.tree
    arguments = jax.tree.map(
      lambda _: ocp.ArrayRestoreArgs(sharding=device), tree
    )
    return jax.tree.leaves(checkpointer.restore(path, restore_args=arguments))


@pytest.mark.slow
def test_a_signal_while_evaluating_ends_both_in_good_order(config, tmp_path):
  fields = json.loads(config) | {"epochs": 1}
  fields["optimizer"]["warmup_epochs"] = 0
  fields["probe"] |= {"protocol": "paper", "batch_size": 8, "epochs": 4}
  # Monitor batches, training steps and probe steps all count.
  stopped = process_helpers.run(
    tmp_path, json.dumps(fields), 2, disturb="SIGTERM 12 1"
  )
  assert stopped.statuses == [0, 0], stopped.errors
  assert "stopped by SIGTERM while evaluating" in stopped.printed[0][-1]
  assert stopped.printed[1] == []
  assert checkpoint.exists(stopped.workdir)
  assert not (stopped.workdir / "results.json").exists()
