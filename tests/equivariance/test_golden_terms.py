"""Terms with heads of golden weights against PyTorch's losses and gradients."""

import functools
import types

import jax
import numpy as np
import pytest
from term_helpers import golden_mlp, golden_tensors, head_functions

from essl_jax import augment
from essl_jax.augment import View
from essl_jax.equivariance import augself, sie, stl

pytestmark = pytest.mark.quick

SIE_SCALE = 0.12  # of the golden hypernetwork


TURNS = View(size=8, blur=0.5, solarize=0.5, groups=("rotation",))


def _hypernetwork(weight, rows):
  """The variables of a hypernetwork, of its matrices [rows * columns, T]."""
  kernel = weight.reshape(rows, -1, weight.shape[1]).transpose(2, 1, 0)
  return {"params": {"dense": {"kernel": kernel.reshape(-1, rows)}}}


def _check(golden, term, variables, targets, names, parts):
  """Loss, gradients of both features, and parts of a term.

  Args:
    golden: the fixture.
    term: whose `forward` and `loss` are compared.
    variables: of its heads by name.
    targets: of the step.
    names: of the loss and of the gradients in the golden file, without number.
    parts: names of metrics and of their values in the golden file.
  """
  file = golden("equivariance_terms")
  heads = head_functions(term, variables)

  @jax.jit
  @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
  def run(first, second):
    features = {"first": first, "second": second}
    return term.loss(term.forward(heads, features, targets), targets)

  (value, metrics), gradients = run(file["features1"], file["features2"])
  np.testing.assert_allclose(value, file[names[0]], rtol=1e-4)
  for i, found in enumerate(gradients, 1):
    expected = file[f"{names[1]}{i}"]
    bound = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
  for name, other in parts.items():
    np.testing.assert_allclose(metrics[name], file[other], rtol=1e-4)


def test_stl(golden):
  """All parts, with the weights of the paper."""
  term = stl.STL(
    invariance_weight=1.0,
    projector=(40, 20),
    transformation_head=(40, 16),
    transformation_projector=(16, 12),
  )
  weight = golden_tensors("stl_equi_transform")["hypernet.weight"]
  variables = {
    "stl_invariance_projector": golden_mlp("stl_inv_projector"),
    "stl_equivariance_projector": golden_mlp("stl_equi_projector"),
    "stl_transformation_projector": golden_mlp("stl_trans_projector"),
    "stl_transformation_head": golden_mlp("stl_trans_backbone"),
    "stl_hypernetwork": _hypernetwork(weight, 24),
  }
  parts = {f"stl_{x}": f"stl_{x}_loss" for x in stl.PARTS}
  names = ("stl_total_loss", "stl_total_grad_features")
  _check(golden, term, variables, {}, names, parts)


def test_sie(golden, monkeypatch):
  """With the parameters of the file instead of those of views."""
  parameters = golden("equivariance_terms")["sie_parameters"]
  monkeypatch.setattr(sie.vectors, "as_difference", lambda *_: parameters)
  term = sie.SIE(
    equivariant_features=8,
    invariant_projector=(32, 32, 32),
    equivariant_projector=(16, 16, 16),
  )
  weight = golden_tensors("sie")["predictor.hypernet.net.0.weight"]
  variables = {
    "sie_invariant_projector": golden_mlp("sie", "projector_inv."),
    "sie_equivariant_projector": golden_mlp("sie", "projector_equi."),
    "sie_hypernetwork": _hypernetwork(np.float32(SIE_SCALE) * weight, 16),
  }
  still = augment.draw_parameters(jax.random.key(0), 32, (8, 8), TURNS)
  drawn = augment.DrawnView(still, TURNS)
  targets = {"parameters": {"first": drawn, "second": drawn}}
  parts = {"sie_prediction": "sie_repr_loss_equi"}
  names = ("sie_loss", "sie_grad_features")
  _check(golden, term, variables, targets, names, parts)


def _drawn(file, number):
  """The parameters of a view of the file, of images of one pixel."""
  of = lambda name: file[f"augself_view{number}_{name}"]
  names = "flip jittered brightness contrast saturation hue blurred sigma"
  names += " solarized threshold"
  drawn = augment.draw_parameters(jax.random.key(0), 32, (1, 1), TURNS)
  parameters = drawn.replace(
    crop=of("crop_top_left_height_width"),
    elements={"rotation": of("turns")},
    **{name: of(name) for name in names.split()},
  )
  return augment.DrawnView(parameters, TURNS)


def test_augself(golden):
  """All heads of the file, with its weights."""
  file = golden("equivariance_terms")
  term = augself.AugSelf(
    crop=1.0, color=0.5, flip=0.25, blur=0.5, rot=1.0, hidden_widths=(40, 40)
  )
  variables = {f"augself_{x}": golden_mlp(f"augself_{x}") for x in term.weights}
  targets = {
    "parameters": {"first": _drawn(file, 1), "second": _drawn(file, 2)}
  }
  parts = {f"augself_{x}": f"augself_{x}_loss" for x in term.weights}
  names = ("augself_total_loss", "augself_total_grad_features")
  _check(golden, term, variables, targets, names, parts)
  views = types.SimpleNamespace(first=TURNS, second=TURNS, extra=None)
  term.check(types.SimpleNamespace(views=views))
