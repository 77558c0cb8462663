"""Recognising checkpoints, and accounting for every entry."""

import re

import checkpoint_forms as forms
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax import convert
from essl_jax.convert import recognise
from essl_jax.errors import UsageError
from essl_jax.models import heads

pytestmark = pytest.mark.quick


def assert_same_arrays(a, b):
  a, b = traverse_util.flatten_dict(a), traverse_util.flatten_dict(b)
  assert set(a) == set(b)
  for path, value in a.items():
    np.testing.assert_array_equal(value, b[path], err_msg=str(path))


def apply(head, variables, network, x):
  own = {k: v[network] for k, v in variables.items() if network in v}
  return head.apply(own, x, train=False)


@pytest.mark.parametrize("form", forms.FORMS)
def test_forms_are_recognised_and_accounted_for(form):
  make, networks, reasons = forms.FORMS[form]
  tree = make()
  imported = recognise.import_checkpoint(tree)
  assert imported.form == form
  assert set(imported.variables["params"]) == networks
  assert set(imported.taken.values()) == networks

  # Every entry is either taken or left out for a known reason.
  assert not set(imported.taken) & set(imported.left_out)
  assert set(imported.taken) | set(imported.left_out) == set(forms.flat(tree))
  found = set(imported.left_out.values())
  assert len(found) == len(reasons), found
  assert all(any(why.startswith(r) for r in reasons) for why in found)

  stem = "cifar" if form in ("E-SSL, CIFAR-10", "MoCo") else "imagenet"
  encoder = {k: v["encoder"] for k, v in imported.variables.items()}
  assert_same_arrays(encoder, forms.encoder_variables(0, stem))
  assert convert.architecture(encoder) == {
    "depth": 18,
    "stem": stem,
    "width": forms.WIDTH,
  }


@pytest.mark.parametrize(
  ("wrap", "form"),
  [
    (lambda t: {"state_dict": forms.under("module", t)}, "ResNet without"),
    (lambda t: {"model": t}, "ResNet without"),
    (lambda t: forms.under("module.backbone", t), "prefix 'backbone.'"),
    (lambda t: {"encoder": t}, "prefix 'encoder.'"),
    (lambda t: {"backbone": forms.under("module", t)}, "prefix 'backbone.'"),
  ],
)
def test_wrappers_are_looked_through(wrap, form):
  imported = recognise.import_checkpoint(wrap(forms.plain()))
  assert form in imported.form
  encoder = {k: v["encoder"] for k, v in imported.variables.items()}
  assert_same_arrays(encoder, forms.encoder_variables(0, "imagenet"))


@pytest.mark.parametrize(
  ("form", "network", "head"),
  [
    (
      "E-SSL, CIFAR-10",
      "projector",
      heads.projector((32, 32)),
    ),
    (
      "E-SSL, ImageNet",
      "projector",
      heads.projector((32, 32), last_norm="batch"),
    ),
    (
      "Barlow Twins",
      "projector",
      heads.projector((32, 32), last_norm="none"),
    ),
    (
      "SimSiam",
      "projector",
      heads.projector((forms.FEATURES,) * 3),
    ),
    ("SimSiam", "predictor", heads.predictor(16, forms.FEATURES)),
    (
      "E-SSL, ImageNet",
      "transformation_head",
      heads.transformation_head((32, 32), 4),
    ),
  ],
)
def test_heads_have_the_modules_structure(form, network, head):
  imported = recognise.import_checkpoint(forms.FORMS[form][0]())
  expected = jax.eval_shape(
    lambda: head.init(
      jax.random.key(0), jnp.zeros((2, forms.FEATURES)), train=False
    )
  )
  found = {
    collection: networks[network]
    for collection, networks in imported.variables.items()
    if network in networks
  }
  assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)


def test_a_bias_before_a_norm_is_folded_into_its_mean():
  """SimSiam's projector computes the same as in PyTorch."""
  imported = recognise.import_checkpoint(forms.simsiam())
  assert any("dense_2 is folded" in note for note in imported.notes)
  x = np.random.default_rng(0).standard_normal((5, forms.FEATURES), np.float32)
  head = heads.projector((forms.FEATURES,) * 3)
  out = apply(head, imported.variables, "projector", x)

  layers = forms.simsiam_projector()

  def normalise(x, i):
    x = x - layers[f"{i}.running_mean"]
    x = x / np.sqrt(layers[f"{i}.running_var"] + 1e-5)
    return x * layers.get(f"{i}.weight", 1) + layers.get(f"{i}.bias", 0)

  for i in (0, 3):
    x = np.maximum(normalise(x @ layers[f"{i}.weight"].T, i + 1), 0)
  x = normalise(x @ layers["6.weight"].T + layers["6.bias"], 7)
  np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
  ("make", "name"),
  [
    (forms.torchvision, "fc"),
    (forms.essl_imagenet, "model.module.online_head"),
    (forms.essl_imagenet_final, "head"),
  ],
)
def test_a_classifier_is_kept_on_demand(make, name):
  imported = recognise.import_checkpoint(make(), keep_classifier=True)
  assert imported.taken[f"{name}.weight"] == "classifier"
  assert not any("classifier" in why for why in imported.left_out.values())
  layer = imported.variables["params"]["classifier"]
  np.testing.assert_array_equal(layer["kernel"].T, forms.classifier()["weight"])
  np.testing.assert_array_equal(layer["bias"], forms.classifier()["bias"])


def _with(tree, **changes):
  changed = dict(tree)
  for name, value in changes.items():
    name = name.replace("__", ".")
    if value is None:
      del changed[name]
    else:
      changed[name] = value
  return changed


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    (lambda: {"epoch": 3}, "no ResNet or ViT in it.*no tensors"),
    (
      lambda: {"fc.weight": np.zeros((2, 2))},
      "no ResNet or ViT in it.*fc.weight",
    ),
    (
      lambda: _with(forms.plain(), layer3__0__bn1__bias=None),
      "missing tensors: layer3.0.bn1.bias",
    ),
    (
      lambda: _with(forms.plain(), layer3__0__se__weight=np.zeros(3)),
      "unexpected tensors: layer3.0.se.weight",
    ),
    (
      lambda: _with(forms.plain(), bn1__bias=np.zeros(3)),
      r"bn1.bias \(3,\) instead of \(8,\)",
    ),
    (
      lambda: {"teacher": forms.plain(), "student": forms.plain()},
      "it has several encoders, under 'teacher.', 'student.'",
    ),
    (
      lambda: {"model": forms.plain(), "state_dict": forms.plain()},
      "it has several encoders, under 'model.', 'state_dict.'",
    ),
    (
      lambda: {"module": forms.plain()} | forms.plain(),
      "mean the same tensor",
    ),
    (
      lambda: {"a": {"b": np.zeros(3)}, "a.b": np.zeros(3)},
      "a.b and a.b mean the same tensor",
    ),
    (
      lambda: {
        "state_dict": _with(
          forms.essl_cifar()["state_dict"],
          net__1__net__3__weight=np.zeros((32, 32), np.float32),
        )
      },
      "net.1.net.3.weight should equal state_dict.projector.net.3.weight",
    ),
  ],
)
def test_what_does_not_fit_is_named_in_one_line(tree, message):
  with pytest.raises(UsageError) as error:
    recognise.import_checkpoint(tree())
  assert re.search(message, str(error.value)), error.value
  assert "\n" not in str(error.value)


def test_parts_that_are_not_known_are_left_out_by_name():
  tree = {
    "backbone": forms.plain(),
    "projector": {"conv.weight": np.zeros((2, 2, 3, 3))},
    "decoder": {"0.weight": np.zeros((2, 2))},
    "names": np.asarray(["a", "b"]),
  }
  left_out = recognise.import_checkpoint(tree).left_out
  assert "conv.weight" in left_out["projector.conv.weight"]
  assert left_out["decoder.0.weight"] == "not a known network"
  assert left_out["names"] == "not a tensor"
