"""Round trips of vision transformers, and their features."""

import json

from convert_helpers import (
  ROOT,
  assert_same_tensors,
  convert,
  published,
  write_tree,
)
from golden.weights import golden_state_dict
import jax
import numpy as np
import pytest
import safetensors.numpy

from essl_jax import convert as convert_lib
from essl_jax.convert import recognise
from essl_jax.models import vit
from essl_jax.models.layers import dense, patches
from essl_jax.storage import weights

SHAPES = json.loads(
  (ROOT / "tests/golden/modern_state_dict_shapes.json").read_text()
)


def test_timms_checkpoint_goes_there_and_back_bit_for_bit(tmp_path, capsys):
  before = published("timm_vit")
  source = tmp_path / "timm.safetensors"
  safetensors.numpy.save_file(before, source)
  flax_file, torch_file = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  options = ("--keep-classifier", "--attention-heads=4")
  convert("import", source, flax_file, *options)
  convert("export", flax_file, torch_file, "--format=torch")
  assert "32 tensors under timm's names" in capsys.readouterr().out
  assert_same_tensors(safetensors.numpy.load_file(torch_file), before)

  # The number of heads, which no tensor shows, comes back too.
  again = tmp_path / "c.safetensors"
  convert("import", torch_file, again, "--keep-classifier")
  (first, about), (second, same) = map(weights.load, (flax_file, again))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert about["encoder"] == same["encoder"]
  assert same["encoder"]["heads"] == 4


@pytest.mark.parametrize("old", [False, True])
def test_torchvisions_names_are_timms_tensors(old):
  """Files of torchvision still use names from before version 0.13."""
  theirs = published("torchvision_vit")
  if old:
    theirs = {
      name.replace("mlp.0.", "mlp.linear_1.").replace(
        "mlp.3.", "mlp.linear_2."
      ): x
      for name, x in theirs.items()
    }
  imported = recognise.import_checkpoint(
    theirs, attention_heads=3, keep_classifier=True
  )
  params = imported.variables["params"]
  assert set(params) == {"encoder", "classifier"}
  values = published("torchvision_vit")
  block, first = params["encoder"]["blocks_0"], "encoder.layers.encoder_layer_0"
  for ours, name in (
    (params["classifier"]["kernel"].T, "heads.head.weight"),
    (params["encoder"]["cls_token"], "class_token"),
    (params["encoder"]["pos_embed"], "encoder.pos_embedding"),
    (params["encoder"]["norm"]["scale"], "encoder.ln.weight"),
    (block["norm1"]["bias"], f"{first}.ln_1.bias"),
    (block["norm2"]["bias"], f"{first}.ln_2.bias"),
    (
      block["attn"]["qkv"]["kernel"].T,
      f"{first}.self_attention.in_proj_weight",
    ),
    (block["attn"]["qkv"]["bias"], f"{first}.self_attention.in_proj_bias"),
    (
      block["attn"]["proj"]["kernel"].T,
      f"{first}.self_attention.out_proj.weight",
    ),
    (block["mlp"]["fc1"]["kernel"].T, f"{first}.mlp.0.weight"),
    (block["mlp"]["fc2"]["kernel"].T, f"{first}.mlp.3.weight"),
  ):
    np.testing.assert_array_equal(ours, values[name], err_msg=name)


@pytest.mark.parametrize("name", ["vit_32px_patch4", "vit_64px_patch16"])
def test_converted_features_match_golden(golden, name, tmp_path):
  """A timm file, after import, saving and loading, has timm's features."""
  golden, heads = golden("vit"), 3 if "32px" in name else 4
  source, output = tmp_path / "timm.pth", tmp_path / "encoder.safetensors"
  tensors = golden_state_dict(SHAPES[name], salt=name + "/")
  write_tree(source, {"model": {f"module.{k}": x for k, x in tensors.items()}})
  convert(source, output, f"--attention-heads={heads}")
  variables, metadata = weights.load(output)
  fields = {k: v for k, v in metadata["encoder"].items() if k != "name"}
  model = vit.ViT(**fields, dot_general=dense.default_dot_general())
  own = {"params": variables["params"]["encoder"]}
  actual = jax.jit(lambda own, x: model.apply(own, x, train=False))(
    own, golden[f"{name}/input"]
  )
  np.testing.assert_allclose(
    actual, golden[f"{name}/features"], rtol=1e-4, atol=1e-4
  )


def with_fixed_positions(golden):
  tree = published("mocov3_vit", "state_dict")
  for side in ("base", "momentum"):
    name = f"module.{side}_encoder.pos_embed"
    tree[name] = golden("vit")["sincos_8x8_48"]
  return tree


def test_fixed_positions_are_recognised_and_written(golden, tmp_path):
  """MoCo v3's positions are computed, and exported for other programs."""
  source, flax_file = tmp_path / "moco.pth", tmp_path / "a.safetensors"
  write_tree(source, {"state_dict": with_fixed_positions(golden)})
  convert(source, flax_file, "--attention-heads=12")
  variables, metadata = weights.load(flax_file)
  assert metadata["encoder"]["positions"] == "sincos"
  assert "pos_embed" not in variables["params"]["encoder"]
  out = [tmp_path / f"{name}.safetensors" for name in "bcd"]
  convert("export", flax_file, out[0], "--format=torch")
  tensors = safetensors.numpy.load_file(out[0])
  fixed = np.pad(patches.sincos_positions(8, 8, 48), ((1, 0), (0, 0)))[None]
  np.testing.assert_array_equal(tensors["pos_embed"], fixed)
  np.testing.assert_allclose(
    tensors["pos_embed"], golden("vit")["sincos_8x8_48"], rtol=0, atol=1e-6
  )
  convert("import", out[0], out[1])
  convert("export", out[1], out[2], "--format=torch")
  assert out[2].read_bytes() == out[0].read_bytes()


def test_a_mean_of_patches_has_timms_name_of_its_norm():
  tensors = {
    name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: x
    for name, x in published("dino_vit released backbone (file itself)").items()
  }
  imported = recognise.import_checkpoint(tensors, attention_heads=3)
  fields = imported.metadata["encoder"]
  assert fields["pool"] == "mean"
  encoder = {"params": imported.variables["params"]["encoder"]}
  back = convert_lib.to_torch_vit(encoder, image_size=32, patch=4, pool="mean")
  assert_same_tensors(back, tensors)
  again = convert_lib.from_torch_vit(back)
  jax.tree.map(np.testing.assert_array_equal, again, encoder)
