"""Vision transformers: facts that no tensor shows, and misfits."""

import re

from convert_helpers import convert, published, timm_vit, write_tree
import numpy as np
import pytest

from essl_jax.convert import recognise
from essl_jax.errors import UsageError
from essl_jax.storage import weights


@pytest.mark.parametrize(
  ("width", "fixed", "heads", "whose"),
  [
    (192, False, 3, "timm's ViTs of width 192"),
    (384, False, 6, "timm's ViTs of width 384"),
    (768, False, 12, "timm's ViTs of width 768"),
    (384, True, 12, "MoCo v3's ViTs of width 384"),
  ],
)
def test_known_widths_have_their_heads(width, fixed, heads, whose):
  positions = "sincos" if fixed else "learned"
  tree = timm_vit(width=width, depth=1, positions=positions)
  imported = recognise.import_checkpoint(tree)
  assert imported.metadata["encoder"]["heads"] == heads
  assert any(
    note.startswith(f"{heads} attention heads, like {whose}")
    for note in imported.notes
  )
  imported = recognise.import_checkpoint(tree, attention_heads=8)
  assert imported.metadata["encoder"]["heads"] == 8
  assert not any("attention heads" in note for note in imported.notes)


def changed(**changes):
  """A timm checkpoint with changed tensors; `__` in names means a dot."""
  tree = published("timm_vit")
  for name, shape in changes.items():
    name = name.replace("__", ".")
    if shape is None:
      del tree[name]
    else:
      tree[name] = np.zeros(shape, np.float32)
  return tree


def without_block(number):
  return {
    name: x
    for name, x in published("timm_vit").items()
    if not name.startswith(f"blocks.{number}.")
  }


def mocos(**changes):
  tree = published("mocov3_vit", "state_dict")
  return tree | {f"module.base_encoder.head.{k}": v for k, v in changes.items()}


@pytest.mark.parametrize(
  ("make", "heads", "message"),
  [
    (changed, None, "in.pth: it is a ViT of width 48, .*--attention-heads=N"),
    (changed, 5, "--attention-heads=5 does not divide the ViT's width of 48"),
    (changed, 0, "--attention-heads=0 does not divide"),
    (lambda: without_block(0), 3, "it lacks blocks.0 but has blocks up to 1"),
    (
      lambda: changed(blocks__1__norm2__bias=None),
      3,
      "missing tensors: blocks.1.norm2.bias",
    ),
    (
      lambda: changed(blocks__1__norm2__bias=(47,)),
      3,
      r"misshapen tensors: blocks.1.norm2.bias \(47,\) instead of \(48,\)",
    ),
    (
      lambda: changed(blocks__0__mlp__fc3__bias=(48,)),
      3,
      "unexpected tensors: blocks.0.mlp.fc3.bias",
    ),
    (lambda: changed(cls_token=None), 3, "missing tensors: cls_token"),
    (
      lambda: changed(dist_token=(1, 1, 48)),
      3,
      r"has what ViTs here do not have: a distillation token \(dist_token\)",
    ),
    (lambda: changed(reg_token=(1, 4, 48)), 3, "have: register tokens"),
    (
      lambda: changed(blocks__0__attn__relative_position_bias_table=(9, 3)),
      3,
      "have: relative positions",
    ),
    (
      lambda: changed(norm_pre__weight=(48,)),
      3,
      "before its blocks, like CLIP",
    ),
    (lambda: changed(blocks__0__ls1__gamma=(48,)), 3, "have: scaled layers"),
    (
      lambda: changed(patch_embed__proj__weight=(48, 3, 4, 2)),
      3,
      "patches of 4 x 2 are not square",
    ),
    (lambda: changed(pos_embed=(1, 64, 48)), 3, "pos_embed has 64 positions"),
    (lambda: changed(pos_embed=(1, 1, 48)), 3, "pos_embed has 1 positions"),
    (
      lambda: {"visual.transformer.resblocks.0.ln_1.weight": np.zeros(3)},
      None,
      "no ResNet or ViT in it.* with CLIP's names",
    ),
    (
      lambda: {"stages.0.blocks.0.norm.weight": np.zeros(3)},
      None,
      "no ResNet or ViT in it.*it holds stages.0.blocks.0.norm.weight",
    ),
    (
      lambda: published("mocov3_resnet18", "state_dict"),
      3,
      "--attention-heads=3 is for ViTs: leave it out",
    ),
    (
      lambda: mocos(**{"0.weight": np.zeros((32, 40), np.float32)}),
      3,
      "its projector does not fit: one of its layers takes 40 values, but the"
      " encoder gives 48",
    ),
    (
      lambda: mocos(**{"3.weight": np.zeros((32, 31), np.float32)}),
      3,
      "one of its layers takes 31 values, but the one before it gives 32",
    ),
    (
      lambda: (
        published("torchvision_vit")
        | {"encoder.layers.encoder_layer_1.ln_1.bias": np.zeros(9, np.float32)}
      ),
      3,
      r"encoder.layers.encoder_layer_1.ln_1.bias \(9,\) instead of",
    ),
    (
      lambda: (
        published("torchvision_vit") | {"cls_token": np.zeros((1, 1, 48))}
      ),
      3,
      "cls_token and class_token mean the same tensor",
    ),
  ],
)
def test_what_does_not_fit_is_one_line(make, heads, message, tmp_path):
  source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
  write_tree(source, make())
  options = [] if heads is None else [f"--attention-heads={heads}"]
  with pytest.raises(UsageError) as error:
    convert(source, output, *options)
  assert re.search(message, str(error.value)), error.value
  assert "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == [source]


def test_a_vit_without_description_is_not_exported(tmp_path):
  imported = recognise.import_checkpoint(
    published("timm_vit"), attention_heads=3
  )
  path, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  for encoder, message in (
    (None, "its header does not describe its ViT"),
    ({"image_size": 32, "patch": 5, "pool": "token"}, "cannot reshape"),
    (
      {"image_size": 32, "patch": "4", "pool": "token"},
      "holds no complete ViT",
    ),
  ):
    metadata = {"source": "test"} | ({"encoder": encoder} if encoder else {})
    weights.save(path, imported.variables, metadata, overwrite=True)
    with pytest.raises(UsageError, match=message):
      convert("export", path, output, "--format=torch")
  assert not output.exists()
