"""Vision transformers among the checkpoints that others publish."""

import json

from convert_helpers import (
  ROOT,
  assert_same_tensors,
  convert,
  published,
  write_tree,
)
from flax import traverse_util
from golden.weights import golden_state_dict
import jax
import numpy as np
import pytest
import safetensors.numpy

from essl_jax import convert as convert_lib
from essl_jax.convert import recognise
from essl_jax.models import vit
from essl_jax.models.layers import dense
from essl_jax.storage import weights

SHAPES = json.loads(
  (ROOT / "tests/golden/modern_state_dict_shapes.json").read_text()
)


def dino():
  return {name: published("dino_vit", name) for name in ("student", "teacher")}


def in_state_dict(name):
  return {"state_dict": published(name, "state_dict"), "epoch": 3}


def flat(tree, prefix=""):
  found = {}
  for key, value in tree.items():
    is_tree = isinstance(value, dict)
    found |= (
      flat(value, f"{prefix}{key}.") if is_tree else {prefix + key: value}
    )
  return found


# Checkpoint, where its encoder is, networks, and the reasons for the rest.
FORMS = {
  "timm ViT": (
    lambda: published("timm_vit"),
    "",
    {"encoder"},
    {"classifier"},
  ),
  "torchvision ViT": (
    lambda: published("torchvision_vit"),
    "",
    {"encoder"},
    {"classifier"},
  ),
  "ViT without classifier": (
    lambda: published("dino_vit released backbone (file itself)"),
    "",
    {"encoder"},
    set(),
  ),
  "DINO": (
    dino,
    "teacher.backbone.",
    {"encoder", "projector", "prototypes"},
    {"another encoder"},
  ),
  "MoCo v3": (
    lambda: in_state_dict("mocov3_vit"),
    "state_dict.module.base_encoder.",
    {"encoder", "projector", "predictor"},
    {"moving average", "batch counter", "not a tensor"},
  ),
}
RESNETS = {
  "MoCo v3": (
    lambda: in_state_dict("mocov3_resnet18"),
    "state_dict.module.base_encoder.",
    {"encoder", "projector", "predictor"},
    {"moving average", "batch counter", "not a tensor"},
  ),
  "solo-learn": (
    lambda: in_state_dict("solo_learn_byol"),
    "state_dict.backbone.",
    {"encoder", "projector", "predictor"},
    {
      *("moving average", "batch counter", "not a tensor", "classifier"),
      "of another encoder",
    },
  ),
}


def assert_same_arrays(a, b):
  a, b = (traverse_util.flatten_dict(x, sep="/") for x in (a, b))
  assert_same_tensors(
    a, {x: y for x, y in b.items() if isinstance(y, np.ndarray)}
  )


def check_form(imported, form, tree, networks, reasons):
  """The form, and that every entry is taken or left out for a known reason."""
  assert imported.form == form
  assert set(imported.variables["params"]) == networks
  assert not set(imported.taken) & set(imported.left_out)
  assert set(imported.taken) | set(imported.left_out) == set(flat(tree))
  found = set(imported.left_out.values())
  assert len(found) == len(reasons), found
  assert all(any(why.startswith(r) for r in reasons) for why in found)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_vits(form, tmp_path, capsys):
  make, prefix, networks, reasons = FORMS[form]
  tree = make()
  imported = recognise.import_checkpoint(tree, attention_heads=3)
  check_form(imported, form, tree, networks, reasons)
  assert imported.metadata["encoder"] == {
    "name": "vit",
    "image_size": 32,
    "patch": 4,
    "width": 48,
    "depth": 2,
    "heads": 3,
    "mlp_ratio": 4.0,
    "positions": "learned",
    "pool": "token",
  }
  # Through the program and a file: no command means import.
  write_tree(tmp_path / "a.pth", tree)
  flax_file = tmp_path / "a.safetensors"
  convert(tmp_path / "a.pth", flax_file, "--attention-heads=3")
  assert f"recognised: {form}" in capsys.readouterr().out
  variables, metadata = weights.load(flax_file)
  assert_same_arrays(variables, imported.variables)
  model = vit.ViT(**metadata["encoder"] | {"name": None})
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), images
  )
  own = {"params": variables["params"]["encoder"]}
  assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, shapes)
  kernel = own["params"]["blocks_1"]["mlp"]["fc1"]["kernel"]
  theirs = prefix + "blocks.1.mlp.fc1.weight"
  if form == "torchvision ViT":
    theirs = "encoder.layers.encoder_layer_1.mlp.0.weight"
  np.testing.assert_array_equal(kernel, flat(tree)[theirs].T)


@pytest.mark.parametrize("form", RESNETS)
def test_forms_of_resnets(form):
  make, prefix, networks, reasons = RESNETS[form]
  tree = make()
  imported = recognise.import_checkpoint(tree)
  check_form(imported, form, tree, networks, reasons)
  assert imported.metadata == {"depth": 18, "stem": "imagenet", "width": 64}
  params = imported.variables["params"]
  np.testing.assert_array_equal(
    params["encoder"]["layer4_1"]["conv2"]["kernel"],
    flat(tree)[f"{prefix}layer4.1.conv2.weight"].transpose(2, 3, 1, 0),
  )
  # Biases before norms stay where all layers have them, as BYOL's here do.
  has_biases = form == "solo-learn"
  assert ("bias" in params["projector"]["dense_0"]) == has_biases
  assert not any("folded" in note for note in imported.notes)


def test_solo_learns_wider_padding_is_told():
  tree = published("solo_learn_byol", "state_dict")
  tree["backbone.conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
  imported = recognise.import_checkpoint(tree)
  assert any("pads the first convolution" in note for note in imported.notes)


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

  # The number of heads, which no tensor tells, comes back too.
  again = tmp_path / "c.safetensors"
  convert("import", torch_file, again, "--keep-classifier")
  (first, about), (second, same) = map(weights.load, (flax_file, again))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert about["encoder"] == same["encoder"]
  assert same["encoder"]["heads"] == 4


@pytest.mark.parametrize("old", [False, True])
def test_torchvisions_names_are_timms_tensors(old):
  """Files of torchvision's own still have the names of before version 0.13."""
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
  """A file of timm's through import, file and load, against timm's features."""
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
  """MoCo v3's positions are computed, and come out for other programs."""
  source, flax_file = tmp_path / "moco.pth", tmp_path / "a.safetensors"
  write_tree(source, {"state_dict": with_fixed_positions(golden)})
  convert(source, flax_file, "--attention-heads=12")
  variables, metadata = weights.load(flax_file)
  assert metadata["encoder"]["positions"] == "sincos"
  assert "pos_embed" not in variables["params"]["encoder"]
  out = [tmp_path / f"{name}.safetensors" for name in "bcd"]
  convert("export", flax_file, out[0], "--format=torch")
  tensors = safetensors.numpy.load_file(out[0])
  fixed = np.pad(vit.sincos_positions(8, 8, 48), ((1, 0), (0, 0)))[None]
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


@pytest.mark.parametrize(
  ("chosen", "side"), [(None, "teacher"), ("student", "student")]
)
def test_dinos_teacher_is_the_default(chosen, side):
  tree = dino()
  tree["student"] = {name: x + 1 for name, x in tree["student"].items()}
  imported = recognise.import_checkpoint(
    tree, encoder=chosen, attention_heads=3
  )
  prefix = "student.module." if side == "student" else "teacher."
  params, values = imported.variables["params"], flat(tree)
  np.testing.assert_array_equal(
    params["encoder"]["cls_token"], values[f"{prefix}backbone.cls_token"]
  )
  np.testing.assert_array_equal(
    params["projector"]["dense_2"]["kernel"].T,
    values[f"{prefix}head.mlp.4.weight"],
  )
  np.testing.assert_array_equal(
    params["prototypes"]["kernel"].T,
    values[f"{prefix}head.last_layer.weight_v"],
  )
  assert any("prototypes' lengths" in note for note in imported.notes)
  other = {"teacher": "student", "student": "teacher"}[side]
  assert f"another encoder (--encoder={other}.backbone takes it)" in set(
    imported.left_out.values()
  )


def test_the_momentum_encoder_comes_with_its_projector():
  tree = published("mocov3_vit", "state_dict")
  imported = recognise.import_checkpoint(
    tree, encoder="momentum_encoder", attention_heads=3
  )
  params = imported.variables["params"]
  assert set(params) == {"encoder", "projector"}
  np.testing.assert_array_equal(
    params["projector"]["dense_0"]["kernel"].T,
    tree["module.momentum_encoder.head.0.weight"],
  )
