"""Workdirs that earlier versions have begun."""

import json
import pathlib
import runpy
from typing import Any

import flax.struct
import jax
import numpy as np
import pytest

from essl_jax import config as config_lib
from essl_jax import optim
from essl_jax.config import older
from essl_jax.errors import UsageError
from essl_jax.storage import checkpoint
from essl_jax.storage import workdir as workdir_lib
from essl_jax.training import experiment as experiment_lib

ROOT = pathlib.Path(__file__).parents[2]
# What recipes wrote when `model` was a field.
CONFIGS = json.loads((ROOT / "tests/golden/older_configs.json").read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_recipe_goes_on_in_an_older_workdir(name, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
  recipe, _, variant = name.partition(":")
  get_config = runpy.run_path(str(ROOT / f"configs/{recipe}.py"))["get_config"]
  config = config_lib.parse(get_config(variant).to_dict())

  def check(**changes):
    workdir_lib.check_config(
      tmp_path,
      config_lib.to_dict(config) | changes,
      ignore=config_lib.free_fields(config),
      defaults=config_lib.defaults(config),
    )

  check()
  with pytest.raises(UsageError, match="seed is 0 there, 7 here"):
    check(seed=7)
  # The report and the export read it as a config of today's.
  read = config_lib.parse(workdir_lib.read_config(tmp_path))
  assert read.evaluations == config.evaluations
  assert _kept(read) == _kept(config)


def _kept(config):
  """The fields that a workdir holds on to."""
  free = config_lib.free_fields(config)
  fields = config_lib.to_dict(config)
  return {name: x for name, x in fields.items() if name not in free}


def test_todays_configs_stay_as_they_are(tiny_config):
  config = config_lib.to_dict(tiny_config("simsiam"))
  assert older.upgrade(config) == config
  assert older.upgrade({"seed": 7}) == {"seed": 7}


@flax.struct.dataclass
class OlderState:
  """A train state before target networks."""

  step: jax.Array
  seed: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any


@pytest.mark.parametrize("method", ["simclr", "simsiam"])
def test_older_checkpoints_are_restored(method, tiny_config, tmp_path):
  """Every optimiser had a group for a predictor, used or not."""
  experiment = experiment_lib.build(tiny_config(method))
  state = experiment.create_state()
  peak = experiment.groups["weights"].peak
  groups = dict(experiment.groups)
  groups["predictor"] = optim.Group(peak, peak, 5e-4, 0.9)
  optimizer = optim.make_optimizer(groups)
  _, opt_state = jax.jit(optimizer.update)(
    state.params, optimizer.init(state.params), state.params
  )
  stored = OlderState(
    step=state.step + 4,
    seed=state.seed,
    params=state.params,
    batch_stats=state.batch_stats,
    opt_state=opt_state,
  )
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(4, stored)
    found = checkpoints.restore(state)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(stored), strict=True):
    np.testing.assert_array_equal(a, b)
  assert int(found.step) == 4
  assert any(x.any() for x in jax.tree.leaves(found.opt_state))
