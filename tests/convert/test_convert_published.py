"""Published checkpoints of vision transformers and ResNets."""

import checkpoint_forms as forms
from convert_helpers import (
  assert_same_tensors,
  convert,
  published,
  timm_vit,
  write_tree,
)
from flax import traverse_util
import jax
import numpy as np
import pytest

from essl_jax.convert import recognise
from essl_jax.models import vit
from essl_jax.storage import weights


def dino():
  return {name: published("dino_vit", name) for name in ("student", "teacher")}


def in_state_dict(name):
  return {"state_dict": published(name, "state_dict"), "epoch": 3}


# Checkpoint, the encoder's prefix, networks, and reasons for the rest.
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
  """Checks the form; every entry is taken or left out for a known reason."""
  assert imported.form == form
  assert set(imported.variables["params"]) == networks
  assert not set(imported.taken) & set(imported.left_out)
  assert set(imported.taken) | set(imported.left_out) == set(forms.flat(tree))
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
  # Through the command line and a file: no command means import.
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
  np.testing.assert_array_equal(kernel, forms.flat(tree)[theirs].T)


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
    forms.flat(tree)[f"{prefix}layer4.1.conv2.weight"].transpose(2, 3, 1, 0),
  )
  # Biases before norms stay if all layers have them, as for BYOL here.
  has_biases = form == "solo-learn"
  assert ("bias" in params["projector"]["dense_0"]) == has_biases
  assert not any("folded" in note for note in imported.notes)


def test_solo_learns_wider_padding_is_told():
  tree = published("solo_learn_byol", "state_dict")
  tree["backbone.conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
  imported = recognise.import_checkpoint(tree)
  assert any("pads the first convolution" in note for note in imported.notes)


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
  params, values = imported.variables["params"], forms.flat(tree)
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


def test_dino_of_a_resnet():
  def network(seed):
    head = published("dino_vit", "teacher")
    mlp = {k: x for k, x in head.items() if k.startswith("head.")}
    mlp["head.mlp.0.weight"] = np.zeros((32, 64), np.float32)
    return forms.under("backbone", forms.encoder(seed)) | mlp

  tree = {"student": forms.under("module", network(0)), "teacher": network(1)}
  imported = recognise.import_checkpoint(tree)
  assert imported.form == "DINO"
  params = imported.variables["params"]
  assert set(params) == {"encoder", "projector", "prototypes"}
  expected = forms.encoder_variables(1)["params"]
  jax.tree.map(np.testing.assert_array_equal, params["encoder"], expected)


def test_solo_learns_vit():
  """The names are timm's, beside heads; the moving average is left out."""
  own = published("dino_vit released backbone (file itself)")
  tree = (
    forms.under("backbone", own)
    | forms.under("momentum_backbone", timm_vit())
    | forms.under("projector", forms.linear(0, 48, 16, bias=True))
    | forms.under("classifier", forms.bare(forms.linear(0, 48, 9, bias=True)))
  )
  imported = recognise.import_checkpoint(
    {"state_dict": tree}, attention_heads=3
  )
  assert imported.form == "solo-learn"
  params = imported.variables["params"]
  assert set(params) == {"encoder", "projector"}
  np.testing.assert_array_equal(
    params["encoder"]["norm"]["scale"], own["norm.weight"]
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
