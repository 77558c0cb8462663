"""Networks are found under any prefix; of several encoders, one is chosen."""

import re

import checkpoint_forms as forms
from flax import traverse_util
import numpy as np
import pytest

from essl_jax.convert import recognise
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

OTHER = forms.encoder(seed=1)


def encoder_is(imported, seed, stem="cifar"):
  expected = traverse_util.flatten_dict(forms.encoder_variables(seed, stem))
  for (collection, *rest), value in expected.items():
    found = imported.variables[collection]["encoder"]
    for key in rest:
      found = found[key]
    np.testing.assert_array_equal(found, value)


def accounted(imported, tree):
  """Checks that every entry is either used or left out, once."""
  assert not set(imported.taken) & set(imported.left_out)
  assert set(imported.taken) | set(imported.left_out) == set(forms.flat(tree))


def solo():
  """An encoder and heads, and moving averages of both."""
  return (
    forms.under("backbone", forms.encoder())
    | forms.under("projector", forms.cifar_projector())
    | forms.under("predictor", forms.predictor())
    | forms.under("momentum_backbone", OTHER)
    | forms.under("momentum_projector", forms.barlow_projector())
    | forms.under("classifier", forms.classifier())
  )


def byol():
  """A checkpoint whose networks all have the word as a prefix."""
  return (
    forms.under("online_encoder", forms.encoder())
    | forms.under("online_projector", forms.cifar_projector())
    | forms.under("online_predictor", forms.predictor())
    | forms.under("target_encoder", OTHER)
    | forms.under("target_projector", forms.barlow_projector())
  )


def teacher_student():
  def network(encoder):
    return forms.under("backbone", encoder) | forms.under(
      "projector", forms.cifar_projector()
    )

  return {
    "student": forms.under("module", network(forms.encoder())),
    "teacher": network(OTHER),
    "loss": {"center": np.zeros((1, 9), np.float32)},
  }


def moco_v3():
  mlp = forms.under("fc", forms.simsiam_projector(bias=False))
  return {
    "state_dict": forms.under(
      "module",
      forms.under("base_encoder", forms.encoder() | mlp)
      | forms.under("momentum_encoder", OTHER | mlp)
      | forms.under("predictor", forms.predictor()),
    )
  }


@pytest.mark.parametrize(
  "prefix",
  [
    "_orig_mod",
    "module._orig_mod",
    "_orig_mod.module",
    "_fsdp_wrapped_module",
    "net",
    "model",
    "state_dict.model.net",
    "my-network",
    "0",
  ],
)
@pytest.mark.parametrize("form", forms.FORMS)
def test_any_prefix_keeps_the_form_and_the_heads(form, prefix):
  """The import does not depend on a prefix that all names share."""
  make, networks, _ = forms.FORMS[form]
  tree = make()
  # Only the names of the networks, as in a state dict.
  for wrapper in ("state_dict", "model"):
    tree = tree.get(wrapper, tree)
  names = forms.flat(tree)
  names = {k.removeprefix("module."): v for k, v in names.items()}
  prefixed = forms.under(prefix, names)
  imported = recognise.import_checkpoint(prefixed)
  assert set(imported.variables["params"]) == networks
  assert imported.form.startswith(form)
  accounted(imported, prefixed)


def test_wrappers_in_the_middle_of_names_are_looked_through():
  """Parts may be compiled or made parallel one by one."""
  network = {
    name.replace("layer1.", "layer1._orig_mod."): value
    for name, value in forms.encoder().items()
  }
  tree = forms.under("encoder.module", network) | forms.under(
    "projector._orig_mod", forms.cifar_projector()
  )
  imported = recognise.import_checkpoint(tree)
  encoder_is(imported, 0)
  assert set(imported.variables["params"]) == {"encoder", "projector"}
  accounted(imported, tree)


def test_heads_beside_an_outer_module_of_the_encoder_are_kept():
  tree = forms.under("model.encoder.body", forms.encoder()) | forms.under(
    "model.projector", forms.cifar_projector()
  )
  imported = recognise.import_checkpoint(tree)
  assert set(imported.variables["params"]) == {"encoder", "projector"}
  # Also within a network that is itself a ResNet.
  tree = forms.encoder() | forms.under("projector", forms.cifar_projector())
  imported = recognise.import_checkpoint(tree)
  assert set(imported.variables["params"]) == {"encoder", "projector"}


@pytest.mark.parametrize("wrap", ["", "state_dict.", "module._orig_mod."])
@pytest.mark.parametrize(
  ("make", "chosen", "seed", "networks"),
  [
    (solo, None, 0, {"encoder", "projector", "predictor"}),
    (solo, "backbone", 0, {"encoder", "projector", "predictor"}),
    (solo, "momentum_backbone", 1, {"encoder", "projector"}),
    (byol, None, 0, {"encoder", "projector", "predictor"}),
    (byol, "target_encoder", 1, {"encoder", "projector"}),
    (teacher_student, "student", 0, {"encoder", "projector"}),
    (teacher_student, "teacher", 1, {"encoder", "projector"}),
    (teacher_student, "teacher.backbone.", 1, {"encoder", "projector"}),
    (moco_v3, None, 0, {"encoder", "projector", "predictor"}),
    (moco_v3, "momentum_encoder", 1, {"encoder", "projector"}),
    (forms.moco, None, 0, {"encoder"}),
    (forms.moco, "encoder_k", 1, {"encoder"}),
  ],
)
def test_one_of_several_encoders(wrap, make, chosen, seed, networks):
  """The trained one by default, any by flag, each with its own heads."""
  tree = {f"{wrap}{name}": x for name, x in forms.flat(make()).items()}
  imported = recognise.import_checkpoint(tree, encoder=chosen)
  encoder_is(imported, seed)
  assert set(imported.variables["params"]) == networks
  accounted(imported, tree)
  if make in (solo, byol):
    norms = imported.variables["batch_stats"]["projector"]
    assert ("norm_1" in norms) == (seed == 0), "the head of the other one"


def test_what_is_left_out_says_how_to_take_it():
  imported = recognise.import_checkpoint(solo())
  why = imported.left_out
  assert why["momentum_backbone.conv1.weight"] == (
    "moving average of the encoder (--encoder=momentum_backbone takes it)"
  )
  assert why["momentum_projector.0.weight"] == "of another encoder"
  imported = recognise.import_checkpoint(teacher_student(), encoder="student")
  assert imported.left_out["teacher.projector.0.weight"] == (
    "another encoder (--encoder=teacher.backbone takes it)"
  )
  assert imported.left_out["loss.center"] == "not a known network"


@pytest.mark.parametrize(
  ("tree", "chosen", "message"),
  [
    (
      teacher_student,
      None,
      "it has several encoders, under 'student.backbone.', 'teacher.backbone.':"
      " choose one, such as --encoder=student.backbone",
    ),
    (teacher_student, "backbone", "does not name one of the encoders"),
    (solo, "encoder", "--encoder=encoder does not name one of the encoders"),
    (forms.plain, "teacher", "--encoder=teacher does not name one"),
    (
      lambda: {f"{i}.layer1.0.conv1.weight": np.zeros(1) for i in range(30)},
      None,
      "30 encoders, more than 20",
    ),
  ],
)
def test_encoders_that_are_not_clear_are_one_line(tree, chosen, message):
  with pytest.raises(UsageError) as error:
    recognise.import_checkpoint(tree(), encoder=chosen)
  assert re.search(re.escape(message), str(error.value)), error.value
  assert "\n" not in str(error.value)


def test_an_encoder_without_prefix_can_be_chosen_beside_others():
  tree = forms.encoder() | {"ema": OTHER}
  encoder_is(recognise.import_checkpoint(tree), 0)
  encoder_is(recognise.import_checkpoint(tree, encoder="."), 0)
  imported = recognise.import_checkpoint(tree, encoder="ema")
  encoder_is(imported, 1)
  assert "--encoder=. takes it" in imported.left_out["conv1.weight"]


def test_a_second_head_is_left_out_by_name():
  tree = forms.encoder() | {
    "projector": forms.cifar_projector(),
    "momentum_projector": forms.cifar_projector(),
  }
  imported = recognise.import_checkpoint(tree)
  assert imported.taken["projector.0.weight"] == "projector"
  assert imported.left_out["momentum_projector.0.weight"] == "second projector"


@pytest.mark.parametrize("shape", [(10, 64, 1, 1), (10,), ()])
def test_a_classifier_of_another_shape_is_left_out(shape):
  tree = forms.plain() | {
    "fc.weight": np.zeros(shape, np.float32),
    "fc.bias": np.zeros(10, np.float32),
  }
  imported = recognise.import_checkpoint(tree, keep_classifier=True)
  assert set(imported.variables["params"]) == {"encoder"}
  assert "not a known head" in imported.left_out["fc.weight"]
