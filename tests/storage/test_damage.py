"""Checkpoints that differ from what was saved."""

import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import bookkeeping, damage
from essl_jax.storage.checkpoint import Checkpoints


def make_state(seed):
  keys = jax.random.split(jax.random.key(seed))
  return {
    "step": jnp.int32(seed),
    "params": {
      "kernel": jax.random.normal(keys[0], (40, 30)),
      "bias": jax.random.normal(keys[1], (7,), jnp.bfloat16),
    },
  }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Step 1, which is best, and step 2, the latest."""
  workdir = tmp_path_factory.mktemp("saved")
  with Checkpoints(workdir) as checkpoints:
    checkpoints.save(1, make_state(1), {"knn_top1": 50.0})
    checkpoints.save(2, make_state(2), {"knn_top1": 40.0})
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / "run")


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
  path.unlink()


def put(content):
  return lambda path: path.write_text(content)


def restore(workdir, **options):
  """Returns the state and its step."""
  like = make_state(0)
  with Checkpoints(workdir, **options) as checkpoints:
    state = checkpoints.restore(like)
    return jax.device_get(state), checkpoints.restored


def assert_is(state, seed):
  jax.tree.map(np.testing.assert_array_equal, state, make_state(seed))


def _largest(workdir):
  """Returns the file with the arrays of step 2."""
  files = (workdir / "checkpoints" / "2" / "state").rglob("d/*")
  return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("harm", [flip, cut, remove])
def test_damaged_arrays_give_way_to_the_checkpoint_before(
  harm, workdir, capsys
):
  """So do flipped bits, which Orbax would restore; one line says so.

  A run that only reads changes nothing. A run that trains renames the damaged
  checkpoint and can save that step again.
  """
  harm(_largest(workdir))
  state, step = restore(workdir, read_only=True)
  assert step == 1
  assert_is(state, 1)
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith("warning: the checkpoint of step 2 is damaged (")
  assert "using that of step 1 instead" in line
  assert (workdir / "checkpoints" / "2").exists()

  with Checkpoints(workdir) as checkpoints:
    assert_is(checkpoints.restore(make_state(0)), 1)
    assert checkpoints.latest_step() == checkpoints.restored == 1
    assert "renamed to 2.damaged-1" in capsys.readouterr().out
    checkpoints.save(2, make_state(2))
  assert (workdir / "checkpoints" / "2.damaged-1").is_dir()
  state, step = restore(workdir)
  assert step == 2
  assert_is(state, 2)
  assert not capsys.readouterr().out


def forget(path):
  """Removes the digest of an array, which would then not be compared."""
  found = json.loads(path.read_text())
  found["arrays"].popitem()
  path.write_text(json.dumps(found))


@pytest.mark.parametrize(
  ("file", "harm"),
  [
    ("state/_METADATA", cut),
    ("state/_METADATA", put("[1]")),
    ("state/manifest.ocdbt", put("")),
    ("state/array_metadatas/process_0", put("null")),
    ("digests/digests.json", flip),
    ("digests/digests.json", put("")),
    ("digests/digests.json", put('{"step": 2, "arrays": [3]}')),
    ("digests/digests.json", forget),
    ("digests/digests.json", remove),
  ],
)
def test_a_damaged_description_gives_way_too(file, harm, workdir):
  """If it does not matter, the latest is restored bit for bit."""
  harm(workdir / "checkpoints" / "2" / file)
  state, step = restore(workdir)
  assert_is(state, step)
  assert step == 1 or file.startswith("state/array")


def test_another_shape_than_was_saved_is_damage_and_no_other_network():
  digests = {"a": "float32(3) 00", "b": "int32() 00"}
  arrays = {"a": np.zeros(3, np.float32), "b": np.zeros((), np.int32)}
  damage.check_forms(digests, arrays)
  with pytest.raises(damage.DamagedError, match="b: not what was saved"):
    damage.check_forms(digests, arrays | {"b": np.zeros(1, np.int32)})
  with pytest.raises(damage.DamagedError, match="a: not what was saved"):
    damage.check_forms(digests, {"b": arrays["b"]})


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "state/_METADATA"])
def test_a_pipe_among_the_files_is_refused(name, workdir):
  """Orbax would wait for it forever."""
  path = workdir / "checkpoints" / "2" / name
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(UsageError, match="is not a regular file: move it away"):
    Checkpoints(workdir)


def test_a_checkpoint_in_the_place_of_another_is_not_restored(workdir):
  folder = workdir / "checkpoints"
  shutil.rmtree(folder / "2")
  shutil.copytree(folder / "1", folder / "2")
  assert restore(workdir, read_only=True)[1] == 1


def test_where_none_is_left_nothing_changes(workdir):
  """One line names each; all folders stay as they are."""
  folder = workdir / "checkpoints"
  for step in (1, 2):
    cut(folder / str(step) / "state" / "_METADATA")
  with (
    Checkpoints(workdir) as checkpoints,
    pytest.raises(UsageError, match="holds no other: put a copy") as e,
  ):
    checkpoints.restore(make_state(0))
  assert "\n" not in str(e.value)
  for step in (1, 2):
    assert f"the checkpoint of step {step} is damaged (" in str(e.value)
  assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_damaged_best_gives_way_to_the_next_best(workdir):
  cut(workdir / "checkpoints" / "1" / "state" / "_METADATA")
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.choose("best") == 1
    assert checkpoints.restore_arrays("best")["step"] == 2
    assert checkpoints.restored == 2
    with pytest.raises(UsageError, match="of step 1 is damaged"):
      checkpoints.restore(make_state(0), 1)  # no other takes its place


@pytest.mark.parametrize("content", ["", "[3]", '{"knn_top1": "high"}', "\0"])
def test_figures_that_cannot_be_read_do_not_count(content, workdir, capsys):
  (workdir / "checkpoints" / "1" / "metrics" / "metrics").write_text(content)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.choose("best") == 2
  (line,) = capsys.readouterr().out.splitlines()
  assert "the figures of checkpoint 1 cannot be read" in line


@pytest.mark.parametrize("content", ["[]", '{"item_handlers": 3}', "", "{"])
def test_a_damaged_description_by_orbax_is_told_or_done_without(
  content, workdir, capsys
):
  path = workdir / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
  path.write_text(content)
  try:
    assert restore(workdir, read_only=True)[1] == 2
  except UsageError as error:
    assert "remove _CHECKPOINT_METADATA" in str(error)
    assert "\n" not in str(error)
  bookkeeping.mend(workdir)
  if not content.endswith("}"):
    assert "it is now _CHECKPOINT_METADATA.damaged-1" in capsys.readouterr().out
    assert restore(workdir)[1] == 2


def test_checkpoints_of_earlier_versions_have_no_digests(workdir):
  shutil.rmtree(workdir / "checkpoints" / "2" / "digests")
  state, step = restore(workdir)
  assert step == 2
  assert_is(state, 2)


def test_trouble_of_the_machine_is_no_damage(workdir, monkeypatch):
  """If a file may not be read, the run stops and renames nothing."""
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with Checkpoints(workdir) as checkpoints:
    with pytest.raises(UsageError, match="cannot read .*its permissions"):
      checkpoints.restore(make_state(0))
    assert checkpoints.latest_step() == 2


def test_the_best_is_not_forgotten_for_trouble(workdir, monkeypatch):
  """Otherwise the next save would delete it."""

  def fail(*arguments):
    raise OSError(errno.EIO, "no disk")

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, "metrics", fail)
    with pytest.raises(OSError, match="no disk"):
      Checkpoints(workdir)
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.best_step() == 1
