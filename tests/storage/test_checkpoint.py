"""Saving and restoring checkpoints."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage.checkpoint import Checkpoints

OPTIMIZER = optax.chain(
  optax.clip_by_global_norm(1.0), optax.adam(1e-3), optax.trace(0.9)
)


@flax.struct.dataclass
class State:
  """Like a train state: counters, nested parameters, an optimiser's state."""

  step: jax.Array
  params: Any
  batch_stats: Any
  optimizer: Any


def make_state(width: int = 8, seed: int = 0, devices: int = 8) -> State:
  keys = jax.random.split(jax.random.key(seed), 3)
  kernel = jax.random.normal(keys[0], (3, 3, 3, width))
  params = {
    "encoder": {"conv1": {"kernel": kernel}},
    "head": {"bias": jax.random.normal(keys[1], (width,), jnp.bfloat16)},
  }
  gradients = jax.tree.map(lambda x: x * 0.1, params)
  _, optimizer = OPTIMIZER.update(gradients, OPTIMIZER.init(params), params)
  state = State(
    step=jnp.int32(seed),
    params=params,
    batch_stats={"mean": jax.random.normal(keys[2], (width,))},
    optimizer=optimizer,
  )
  mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
  return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def assert_identical(a: Any, b: Any) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert x.sharding == y.sharding
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_restores_bit_for_bit_with_structure_and_shardings(tmp_path):
  state = make_state(seed=3)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    assert checkpoints.best_step() is None
    assert checkpoints.save(3, state)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 3
    restored = checkpoints.restore(like=make_state(seed=0))
    assert_identical(restored, state)
    assert len(restored.params["head"]["bias"].sharding.device_set) == 8
    # A state may be restored on another number of devices.
    fewer = checkpoints.restore(like=make_state(seed=0, devices=2))
  assert_identical(fewer, make_state(seed=3, devices=2))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
  update = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
  state = jax.random.normal(jax.random.key(0), (1024, 2048))
  expected = {}
  with Checkpoints(tmp_path) as checkpoints:
    for step in range(3):
      expected[step] = np.array(state, copy=True)
      # Rising figures would hide damage to all checkpoints but the last.
      checkpoints.save(step, {"x": state}, {"knn_top1": -step})
      for _ in range(3):
        state = update(state)
    for step in (0, 2):
      restored = checkpoints.restore({"x": state}, step=step)["x"]
      np.testing.assert_array_equal(restored, expected[step])


def test_keeps_the_latest_and_the_best(tmp_path):
  figures = {1: 10.0, 2: 50.0, 3: None, 4: 20.0, 5: float("nan"), 6: 30.0}
  with Checkpoints(tmp_path) as checkpoints:
    for step, figure in figures.items():
      metrics = {"loss": 1.0} if figure is None else {"knn_top1": figure}
      checkpoints.save(step, make_state(seed=step), metrics, wait=True)
      kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
      assert kept == {step, min(step, 2)}
      assert checkpoints.latest_step() == step
      assert checkpoints.best_step() == min(step, 2)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.best_step() == 2
    best = checkpoints.restore(make_state(), step=checkpoints.best_step())
    assert_identical(best, make_state(seed=2))
    checkpoints.save(7, make_state(seed=7), {"knn_top1": 60.0}, wait=True)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["7"]


def test_keeps_as_many_of_the_best_as_asked(tmp_path):
  with Checkpoints(tmp_path, best_metric="probe", keep_best=2) as checkpoints:
    for step, probe in enumerate((3.0, 1.0, 2.0, 0.0, 0.5)):
      checkpoints.save(step, make_state(), {"probe": probe, "knn_top1": step})
  kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
  assert kept == ["0", "2", "4"]


def test_saving_a_step_again_changes_nothing(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.save(4, make_state(seed=4))
    assert not checkpoints.save(4, make_state(seed=9), {"knn_top1": 1.0})
    assert checkpoints.best_step() is None
    assert_identical(checkpoints.restore(make_state()), make_state(seed=4))
    with pytest.raises(ValueError, match="step 3 is below the latest"):
      checkpoints.save(3, make_state())


def test_another_network_is_named_in_one_line(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(width=8))
    with pytest.raises(UsageError) as error:
      checkpoints.restore(make_state(width=16))
    assert "\n" not in str(error.value)
    assert (
      "params/encoder/conv1/kernel is float32(3,3,3,8) there, "
      "float32(3,3,3,16) here"
    ) in str(error.value)
    assert "and 6 more" in str(error.value)

    other = make_state(width=8)
    params = {**other.params, "predictor": other.params["head"]}
    params["head"] = {"bias": other.params["head"]["bias"].astype(jnp.float32)}
    with pytest.raises(UsageError) as error:
      checkpoints.restore(other.replace(params=params))
    assert "params/predictor/bias is absent there, bfloat16(8)" in str(
      error.value
    )
    assert "params/head/bias is bfloat16(8) there, float32(8) here" in str(
      error.value
    )
    del params["predictor"], params["head"]
    with pytest.raises(UsageError, match=r"bfloat16\(8\) there, absent here"):
      checkpoints.restore(other.replace(params=params))


@pytest.mark.parametrize("what", ["arrays", "description"])
def test_a_damaged_checkpoint_is_named_in_one_line(what, tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, make_state(), wait=True)
  folder = tmp_path / "checkpoints" / "3" / "state"
  patterns = {"arrays": "d/*", "description": "_METADATA"}
  damaged = [x for x in folder.glob(patterns[what]) if x.is_file()]
  assert damaged
  for path in damaged:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    for read in (
      lambda: checkpoints.restore(make_state()),
      lambda: checkpoints.restore_arrays(3),
    ):
      with pytest.raises(
        UsageError, match="checkpoint of step 3 is damaged"
      ) as e:
        read()
      assert "\n" not in str(e.value)


def test_no_checkpoint_to_restore(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(UsageError, match="no checkpoint in .*train first"):
      checkpoints.restore(make_state())
    checkpoints.save(1, make_state())
    with pytest.raises(UsageError, match="no checkpoint of step 2.* one of 1$"):
      checkpoints.restore(make_state(), step=2)


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state())
  left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  left.mkdir()
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.latest_step() == 1
  assert left.exists()
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, make_state())
  assert not left.exists()


def test_a_save_that_has_begun_is_seen(tmp_path):
  """So a killed save differs from checkpoints that were removed."""
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state())
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
  assert len(names) == 1 and names[0].startswith("1")


def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path):
  with pytest.raises(UsageError, match=r"has \[ in its path"):
    Checkpoints(tmp_path / "a[b]")
  assert not list(tmp_path.iterdir())
