"""Checkpoints in a bucket: damaged ones, and ones that only seem damaged."""

import aiohttp
import jax.numpy as jnp
from orbax.checkpoint._src.handlers import composite_checkpoint_handler
import pytest

from essl_jax.storage import places
from essl_jax.storage.checkpoint import Checkpoints


def _state(step):
  return {"step": jnp.int32(step), "kernel": jnp.arange(40.0) + step}


@pytest.fixture
def saved(workdir):
  """Steps 1 and 2."""
  with Checkpoints(workdir) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, _state(step), {"knn_top1": 50.0 - step})
  return workdir


def _restored(workdir):
  with Checkpoints(workdir) as checkpoints:
    return int(checkpoints.restore(_state(0))["step"])


def test_a_server_that_fails_does_not_say_no(workdir, monkeypatch):
  """Also if Orbax asks, through epath."""
  assert not workdir.is_dir()

  def fail_now(*arguments, **options):
    raise aiohttp.ServerTimeoutError

  async def fail(*arguments, **options):
    fail_now()

  # What fsspec's client asks for all of them, from programs and from itself.
  for name, failing in (("info", fail_now), ("_info", fail)):
    monkeypatch.setattr(places.client(workdir), name, failing)
  for ask in (workdir.is_dir, workdir.exists):
    with pytest.raises(TimeoutError):
      ask()


def test_a_fault_that_passes_is_no_damage(saved, monkeypatch):
  """Orbax continues without the files that it could not list."""
  handler = composite_checkpoint_handler.CompositeCheckpointHandler
  name = "_existing_items"  # where Orbax lists what a checkpoint has
  original, failed = getattr(handler, name), []

  def fail_once(*arguments):
    if not failed:
      failed.append(True)
      raise aiohttp.ServerTimeoutError
    return original(*arguments)

  monkeypatch.setattr(handler, name, fail_once)
  assert _restored(saved) == 2 and failed
  assert places.names(saved / "checkpoints") == ["1", "2"]


def test_a_damaged_one_is_set_aside(saved, capsys):
  """Orbax leaves the renamed one alone, and the step can be saved again."""
  folder = saved / "checkpoints"
  places.replace_bytes(folder / "2" / "digests" / "digests.json", b"{}")
  assert _restored(saved) == 1
  assert "using that of step 1 instead" in capsys.readouterr().out
  with Checkpoints(saved) as checkpoints:
    checkpoints.save(2, _state(2))
  assert places.names(folder) == ["1", "2", "2.damaged-1"]
  assert _restored(saved) == 2


def test_a_cut_save_is_no_hindrance(saved):
  """Without its marker it is no checkpoint, and the step can be saved again."""
  folder = saved / "checkpoints"
  places.remove(folder / "2" / "commit_success.txt")
  assert _restored(saved) == 1
  with Checkpoints(saved) as checkpoints:
    assert checkpoints.latest_step() == 1
    checkpoints.save(2, _state(2))
  assert _restored(saved) == 2
