"""Small checkpoints in the forms that known PyTorch programs write."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import convert
from essl_jax.models import resnet

WIDTH = 8
FEATURES = 8 * WIDTH


@functools.cache
def encoder_variables(seed=0, stem="cifar", width=WIDTH):
  """Random variables of a narrow ResNet-18."""
  model = resnet.ResNet(depth=18, stem=stem, width=width)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  )
  rng = np.random.default_rng(seed)

  def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    values = rng.standard_normal(leaf.shape).astype(np.float32)
    return np.abs(values) if path[-1].key == "var" else values

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _encoder(seed, stem):
  tensors = convert.to_torch_resnet(encoder_variables(seed, stem))
  counters = {
    name.replace("running_mean", "num_batches_tracked"): np.int64(7)
    for name in tensors
    if name.endswith("running_mean")
  }
  return tensors | {name: np.asarray(x) for name, x in counters.items()}


def encoder(seed=0, stem="cifar"):
  """Its state dict under torchvision's names, with batch counters."""
  return dict(_encoder(seed, stem))


def linear(index, fan_in, width, bias=False):
  rng = np.random.default_rng(index + fan_in)
  layer = {f"{index}.weight": rng.standard_normal((width, fan_in), np.float32)}
  if bias:
    layer[f"{index}.bias"] = rng.standard_normal(width).astype(np.float32)
  return layer


def norm(index, width, *, affine=True, statistics=True):
  rng = np.random.default_rng(index)
  names = ["weight", "bias"] if affine else []
  names += ["running_mean", "running_var"] if statistics else []
  layer = {f"{index}.{n}": rng.random(width, np.float32) for n in names}
  if statistics:
    layer[f"{index}.num_batches_tracked"] = np.asarray(7)
  return layer


def simsiam_projector(bias=True):
  """Three layers; the last has a bias before a norm without one."""
  return (
    linear(0, FEATURES, FEATURES)
    | norm(1, FEATURES)
    | linear(3, FEATURES, FEATURES)
    | norm(4, FEATURES)
    | linear(6, FEATURES, FEATURES, bias=bias)
    | norm(7, FEATURES, affine=False)
  )


def predictor():
  return linear(0, FEATURES, 16) | norm(1, 16) | linear(3, 16, FEATURES, True)


def rotation_head():
  return (
    linear(0, FEATURES, 32, bias=True)
    | norm(1, 32, statistics=False)
    | linear(3, 32, 32, bias=True)
    | norm(4, 32, statistics=False)
    | linear(6, 32, 4, bias=True)
  )


def classifier(classes=10):
  layer = linear(0, FEATURES, classes, bias=True)
  return {name.removeprefix("0."): value for name, value in layer.items()}


def cifar_projector():
  return (
    linear(0, FEATURES, 32)
    | norm(1, 32)
    | linear(3, 32, 32)
    | norm(4, 32, affine=False)
  )


def barlow_projector():
  return linear(0, FEATURES, 32) | norm(1, 32) | linear(3, 32, 32)


def bare(layer):
  """Names without the index of a layer."""
  return {name.partition(".")[2]: value for name, value in layer.items()}


def under(prefix, tensors):
  return {f"{prefix}.{name}": value for name, value in tensors.items()}


def flat(tree, prefix=""):
  """Nested dictionaries to dotted names."""
  names = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      names |= flat(value, f"{prefix}{key}.")
    else:
      names[f"{prefix}{key}"] = value
  return names


def optimizer():
  momentum = {"momentum_buffer": np.zeros(3, np.float32)}
  return {"state": {0: momentum}, "param_groups": [{"lr": 0.1}]}


def essl_cifar():
  encoded, projected = encoder(), under("net", cifar_projector())
  return {
    "epoch": 800,
    "state_dict": under("encoder", encoded)
    | under("projector", projected)
    | under("net.0", encoded)
    | under("net.1", projected)
    | under("predictor2", rotation_head()),
  }


def essl_imagenet_final():
  return {
    "backbone": encoder(stem="imagenet"),
    "projector": barlow_projector() | norm(4, 32),
    "head": classifier(),
  }


def essl_imagenet(rotation=True):
  tensors = (
    under("backbone", encoder(stem="imagenet"))
    | under("projector", barlow_projector() | norm(4, 32))
    | under("online_head", classifier())
  )
  if rotation:
    tensors |= under("rotation_projector", rotation_head())
  model = under("module", tensors)
  return {"epoch": 100, "model": model, "optimizer": optimizer()}


def essl_simsiam():
  tensors = (
    under("backbone", encoder(stem="imagenet"))
    | under("projector", simsiam_projector())
    | under("predictor", predictor())
    | under("rotation_projector", rotation_head())
  )
  return {
    "epoch": 100,
    "arch": "resnet18",
    "state_dict": under("module", tensors),
    "optimizer": optimizer(),
  }


def simsiam():
  tensors = (
    under("encoder", encoder(stem="imagenet"))
    | under("encoder.fc", simsiam_projector())
    | under("predictor", predictor())
  )
  return {
    "epoch": 100,
    "arch": "resnet18",
    "state_dict": under("module", tensors),
    "optimizer": optimizer(),
  }


def barlow_twins():
  tensors = (
    under("backbone", encoder(stem="imagenet"))
    | under("projector", barlow_projector())
    | under("bn", bare(norm(9, 32, affine=False)))
  )
  model = under("module", tensors)
  return {"epoch": 1000, "model": model, "optimizer": optimizer()}


def moco():
  tensors = (
    under("encoder_q", encoder() | under("fc", classifier()))
    | under("encoder_k", encoder(seed=1) | under("fc", classifier()))
    | {
      "queue": np.zeros((4, 9), np.float32),
      "queue_ptr": np.zeros(1, np.int64),
    }
  )
  return {"state_dict": under("module", tensors), "optimizer": optimizer()}


def torchvision():
  return encoder(stem="imagenet") | under("fc", classifier())


def plain():
  return encoder(stem="imagenet")


def wrapped():
  return {"state_dict": under("module", plain()), "epoch": 3}


# Form, what is imported, and the beginnings of the reasons for the rest.
COUNTER, OPTIMISER = "batch counter", "optimiser state"
NUMBER, CLASSIFIER = "not a tensor", "classifier"
FORMS = {
  "E-SSL, CIFAR-10": (
    essl_cifar,
    {"encoder", "projector", "transformation_head"},
    {COUNTER, NUMBER, "second copy"},
  ),
  "E-SSL, ImageNet, final weights": (
    essl_imagenet_final,
    {"encoder", "projector"},
    {COUNTER, CLASSIFIER},
  ),
  "E-SSL, ImageNet": (
    essl_imagenet,
    {"encoder", "projector", "transformation_head"},
    {COUNTER, NUMBER, CLASSIFIER, OPTIMISER},
  ),
  "E-SSL, ImageNet, baseline": (
    lambda: essl_imagenet(rotation=False),
    {"encoder", "projector"},
    {COUNTER, NUMBER, CLASSIFIER, OPTIMISER},
  ),
  "E-SSL, ImageNet, SimSiam": (
    essl_simsiam,
    {"encoder", "projector", "predictor", "transformation_head"},
    {COUNTER, NUMBER, OPTIMISER},
  ),
  "SimSiam": (
    simsiam,
    {"encoder", "projector", "predictor"},
    {COUNTER, NUMBER, OPTIMISER},
  ),
  "Barlow Twins": (
    barlow_twins,
    {"encoder", "projector"},
    {COUNTER, NUMBER, OPTIMISER, "part of Barlow Twins' loss"},
  ),
  "MoCo": (
    moco,
    {"encoder"},
    {COUNTER, CLASSIFIER, OPTIMISER, "moving average", "queue"},
  ),
  "torchvision ResNet": (torchvision, {"encoder"}, {COUNTER, CLASSIFIER}),
  "ResNet without classifier": (plain, {"encoder"}, {COUNTER}),
}
