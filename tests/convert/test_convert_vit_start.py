"""Runs with a vision transformer start from converted weights."""

import types

from convert_helpers import convert, published, timm_vit, write_tree
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.methods import none
from essl_jax.models import vit
from essl_jax.training import loop
from essl_jax.training import step as step_lib

FIELDS = {"image_size": 32, "patch": 4, "width": 48, "depth": 2, "heads": 3}


@pytest.fixture(scope="module")
def begin(tiny_config, tmp_path_factory):
  """Starts a run from a checkpoint; only its networks are real."""
  path = tmp_path_factory.mktemp("weights") / "init.safetensors"
  encoder = {"name": "vit", **FIELDS}
  config = tiny_config("none", encoder=encoder, init_from=str(path))
  shapes = jax.eval_shape(
    lambda x: vit.ViT(**FIELDS).init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
  )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes["params"])
  state = step_lib.TrainState(
    step=jnp.zeros((), jnp.int32),
    seed=jnp.zeros((), jnp.uint32),
    params={"encoder": zeros},
    batch_stats={},
    opt_state=(),
  )
  networks = types.SimpleNamespace(terms=(), method=none.PART())
  experiment = types.SimpleNamespace(
    config=config, create_state=lambda: state, networks=networks
  )

  def run(tree, heads):
    write_tree(path.with_suffix(".pth"), tree)
    options = (f"--attention-heads={heads}", "--overwrite")
    convert(path.with_suffix(".pth"), path, *options)
    return loop.initialise(experiment)

  return run


def test_a_run_begins_with_timms_weights(begin):
  tree = published("timm_vit")
  state, origin = begin(tree, heads=3)
  assert origin.initialised == ("encoder",)
  assert origin.metadata["encoder"]["heads"] == 3
  encoder = jax.device_get(state.params["encoder"])
  for ours, name in (
    (encoder["pos_embed"], "pos_embed"),
    (
      encoder["blocks_1"]["attn"]["proj"]["kernel"].T,
      "blocks.1.attn.proj.weight",
    ),
    (encoder["norm"]["scale"], "norm.weight"),
  ):
    np.testing.assert_array_equal(ours, tree[name], err_msg=name)


@pytest.mark.parametrize(
  ("fields", "heads", "message"),
  [
    ({"depth": 1}, 3, "depth is 1 there, 2 here"),
    ({"width": 24}, 3, "width is 24 there, 48 here"),
    ({"patch": 8}, 3, "patch is 8 there, 4 here"),
    ({"image_size": 16}, 3, "image_size is 16 there, 32 here"),
    ({"mlp_ratio": 2.0}, 3, "mlp_ratio is 2.0 there, 4.0 here"),
    ({"positions": "sincos"}, 3, "positions is sincos there, learned here"),
    ({}, 4, "heads is 4 there, 3 here"),
  ],
)
def test_another_vit_is_named_in_one_line(begin, fields, heads, message):
  with pytest.raises(UsageError) as error:
    begin(timm_vit(**fields), heads=heads)
  text = str(error.value)
  assert f"): {message}: set config.encoder to match it" in text
  assert "\n" not in text
  assert "init.safetensors holds another encoder (depth" in text
