"""The losses of equivariance terms, as functions of a pair of views."""

import functools
import json
import pathlib

import flax.linen as nn
from golden.weights import golden_state_dict
import jax
from jax import lax
import jax.numpy as jnp

from essl_jax import convert
from essl_jax.equivariance import augself, care, equimod, sie, stl

_SHAPES = pathlib.Path(__file__).parent / "golden/modern_state_dict_shapes.json"


def golden_tensors(name):
  """The PyTorch tensors that fill a head of the golden file, by their name."""
  shapes = json.loads(_SHAPES.read_text())[name]
  return golden_state_dict(shapes, salt=f"{name}/")


def golden_mlp(name, prefix=""):
  """The variables of a golden MLP; a prefix chooses one of a larger head."""
  tensors = golden_tensors(name)
  return convert.from_torch_mlp(
    {k.removeprefix(prefix): x for k, x in tensors.items() if prefix in k}
  )


def _augself_of_pair(z1, z2):
  """The columns of `z1` name those of `z2`."""
  return augself.loss(
    {"crop": z1, "flip": z1[:, :1]},
    {"crop": jnp.sin(z2), "flip": (z2[:, 0] > 0).astype(jnp.float32)},
    weights={"crop": 1.0, "flip": 0.25},
  )


def _stl_of_pair(z1, z2, **options):
  """Pairs of two columns each."""
  parts = [z[:, i : i + 2] for i in (0, 2, 4) for z in (z1, z2)]
  return stl.loss(*parts, temperature=0.2, weights=(1, 0.5, 0.1), **options)


def _sie_of_pair(z1, z2, **options):
  """The last two columns are equivariant, and predicted to turn round."""
  predicted = z1[:, :-3:-1]
  return sie.loss(
    z1[:, :-2],
    z2[:, :-2],
    z1[:, -2:],
    z2[:, -2:],
    predicted,
    weights=(10, 45, 10, 1),
    **options,
  )


OF_PAIR = {
  "augself": _augself_of_pair,
  "equimod": functools.partial(equimod.loss, temperature=0.2),
  "care_1": functools.partial(care.loss, chunks=1),
  "care_2": functools.partial(care.loss, chunks=2),
  "care_4": functools.partial(care.loss, chunks=4),
  "stl": _stl_of_pair,
  "sie": _sie_of_pair,
}
OF_ONE_EXAMPLE = ("augself",)  # these take no axis


def make_heads(term, axis_name=None):
  """The heads of a term by name, as the networks make them."""
  return term.make_heads(
    dtype=jnp.float32, axis_name=axis_name, dot_general=lax.dot_general
  )


def head_functions(term, variables, axis_name=None):
  """The heads of a term as functions, each call in the mode of training.

  Args:
    term: whose.
    variables: by the name of the head; where absent, random ones.
    axis_name: over which batch norms share statistics.

  Returns:
    A dict of functions, as `Term.forward` gets it.
  """
  made = make_heads(term, axis_name)
  assert not variables or made.keys() == variables.keys()

  def call(name, *inputs):
    own = {} if name.endswith("hypernetwork") else {"train": True}
    key = jax.random.key(len(name))
    given = make_heads(term)[name].init(key, *inputs, **own)
    wanted = variables.get(name, given)
    forms = [jax.tree.map(jnp.shape, x) for x in (given, wanted)]
    assert forms[0] == forms[1], name
    found, _ = made[name].apply(wanted, *inputs, **own, mutable=["batch_stats"])
    return found

  return {name: functools.partial(call, name) for name in made}


class Encoder(nn.Module):
  """A convolution of 4 x 4 patches and their mean: it compiles in no time.

  Attributes:
    width: number of features.
  """

  width: int = 16

  @nn.compact
  def __call__(self, images):
    """Maps images to features [N, width]."""
    x = nn.Conv(self.width, (4, 4), strides=4)(images)
    return nn.Dense(self.width)(nn.relu(x).mean(axis=(1, 2)))


class Layered(nn.Module):
  """A layer of maps below the features.

  Attributes:
    width: channels of the maps; the features have twice as many.
  """

  width: int = 4

  def __call__(self, images):
    """Maps images to features [N, 2 * width]."""
    return self.inner_features(images)[0]

  @nn.compact
  def inner_features(self, images):
    """The features, and the maps by the name of the layer."""
    maps = nn.relu(nn.Conv(self.width, (4, 4), strides=4)(images))
    return nn.Dense(2 * self.width)(maps.mean(axis=(1, 2))), {"layer1": maps}


# Fields of each term, with heads that are quick to compile.
SMALL = {
  "augself": {"hidden_widths": (16,), "flip": 0.25},
  "equimod": {"projector": {"widths": (24, 16)}, "parameters_width": 8},
  "care": {"projector": (24, 16), "chunks": 4},
  "sie": {
    "equivariant_features": 6,
    "invariant_projector": (12, 12),
    "equivariant_projector": (8, 8),
  },
  "stl": {
    "projector": (16, 8),
    "transformation_head": (16, 6),
    "transformation_projector": (8, 8),
    "invariance_weight": 1.0,
  },
}
