"""Converts state dicts to Flax variables and back, as NumPy arrays.

PyTorch itself is not needed here: use `{k: v.numpy() for k, v in
module.state_dict().items()}` there. Convolution kernels go from
`[out, in, height, width]` to `[height, width, in, out]`, linear ones from
`[out, in]` to `[in, out]`; nothing else changes. Running variances are copied
as they are, although PyTorch's are unbiased and Flax's are not.
"""

from collections.abc import Mapping
import functools
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from essl_jax.convert.arrays import as_float32
from essl_jax.models import resnet
from essl_jax.texts import some

Variables = dict[str, Any]

ANCHOR = "layer1.0.conv1.weight"  # in every ResNet; its prefix is that of all
COUNTER = "num_batches_tracked"
_TORCH_NAMES = {
  ("params", "kernel"): "weight",
  ("params", "scale"): "weight",
  ("params", "bias"): "bias",
  ("batch_stats", "mean"): "running_mean",
  ("batch_stats", "var"): "running_var",
}
_SEQUENTIAL = re.compile(
  r"^(?P<prefix>(?:.*\.)?)(?P<index>\d+)\."
  r"(?P<tensor>weight|bias|running_mean|running_var)$"
)


def from_torch_resnet(state_dict: Mapping[str, Any]) -> Variables:
  """Converts a torchvision-style state dict to variables of `ResNet`.

  Depth, stem and width follow from the names and shapes. A prefix that all
  names share (`module.`, `encoder.`, `backbone.`, ...) is dropped;
  `fc.*` and `num_batches_tracked` are ignored.

  Args:
    state_dict: PyTorch names to arrays.

  Returns:
    `{"params": ..., "batch_stats": ...}` of float32 NumPy arrays.

  Raises:
    ValueError: If tensors are missing, unexpected or of the wrong shape, or the
      blocks fit no known depth; the message names them.
  """
  tensors = _without_prefix(state_dict)
  return flax.traverse_util.unflatten_dict(
    {path: _from_torch(tensors[name]) for name, path in _paths(tensors).items()}
  )


def _network_of(tensors: Mapping[str, Any]) -> resnet.ResNet:
  """Returns the network that a state dict without prefix belongs to."""
  stem = np.shape(tensors.get("conv1.weight", ()))
  kinds = {(3, 3): "cifar", (7, 7): "imagenet"}
  if len(stem) != 4 or stem[2:] not in kinds:
    raise ValueError(
      "conv1.weight must be [width, channels, 3, 3] or "
      f"[width, channels, 7, 7], got shape {stem}."
    )
  blocks = tuple(
    len({name.split(".")[1] for name in tensors if name.startswith(stage)})
    for stage in ("layer1.", "layer2.", "layer3.", "layer4.")
  )
  bottleneck = "layer1.0.conv3.weight" in tensors
  for depth, form in resnet.STAGES.items():
    if form == (blocks, bottleneck):
      kind: Any = kinds[stem[2:]]
      known: Any = depth
      return resnet.ResNet(depth=known, stem=kind, width=stem[0])
  raise ValueError(
    f"No known ResNet has {blocks} {'bottleneck' if bottleneck else 'basic'} "
    f"blocks; known depths: {sorted(resnet.STAGES)}."
  )


def architecture(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Returns depth, stem and width of the `ResNet` with these variables.

  Raises:
    ValueError: If the variables are not those of a `ResNet`.
  """
  model = _network_of(to_torch_resnet(variables))
  return {"depth": model.depth, "stem": model.stem, "width": model.width}


def to_torch_resnet(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverts `from_torch_resnet`, bit for bit.

  Args:
    variables: `{"params": ..., "batch_stats": ...}` of a `ResNet`.

  Returns:
    torchvision's names to float32 arrays, without `fc.*` and
    `num_batches_tracked`.

  Raises:
    ValueError: If the variables are not those of a `ResNet`.
  """
  if not {"params", "batch_stats"} <= set(variables):
    raise ValueError(
      f"Expected params and batch_stats, got {sorted(variables)}."
    )
  wanted = {key: variables[key] for key in ("params", "batch_stats")}
  tensors = {
    _torch_name(path): _to_torch(value)
    for path, value in flax.traverse_util.flatten_dict(wanted).items()
  }
  _paths(tensors)
  return tensors


def from_torch_mlp(state_dict: Mapping[str, Any]) -> Variables:
  """Converts a state dict of one `nn.Sequential` to variables of `MLP`.

  Names are `<prefix><index>.<tensor>` with one prefix. Every linear layer
  becomes `dense_i`, and the norm after it `norm_i`.

  Args:
    state_dict: PyTorch names to arrays, such as `projector.net.0.weight`.

  Returns:
    `{"params": ..., "batch_stats": ...}` of float32 NumPy arrays;
    `batch_stats` is empty without batch norms.

  Raises:
    ValueError: If names have a wrong form or several prefixes, or a norm does
      not fit the linear layer before it.
  """
  variables: Variables = {"params": {}, "batch_stats": {}}
  dense, width = -1, None
  for index, tensors in sorted(_layers(state_dict).items()):
    is_linear = "weight" in tensors and tensors["weight"].ndim == 2
    if is_linear:
      dense, width = dense + 1, tensors["weight"].shape[1]
    vectors = [t.shape for t in tensors.values() if t.ndim != 2]
    if any(shape != (width,) for shape in vectors):
      raise ValueError(
        f"Layer {index} does not fit the linear layer of width {width} "
        f"it belongs to: shapes {vectors}."
      )
    if ("running_mean" in tensors) != ("running_var" in tensors):
      raise ValueError(f"Layer {index} has only one running statistic.")
    name, other = (
      (f"dense_{dense}", "scale") if is_linear else (f"norm_{dense}", "kernel")
    )
    for (collection, leaf), theirs in _TORCH_NAMES.items():
      if theirs in tensors and leaf != other:
        variables[collection].setdefault(name, {})[leaf] = tensors[theirs]
  return variables


def _layers(
  state_dict: Mapping[str, Any],
) -> dict[int, dict[str, np.ndarray]]:
  """Returns the tensors of one `nn.Sequential` by layer number."""
  layers: dict[int, dict[str, np.ndarray]] = {}
  prefixes = set()
  for name, value in state_dict.items():
    if name.split(".")[-1] == COUNTER:
      continue
    match = _SEQUENTIAL.match(name)
    if match is None:
      raise ValueError(f"{name!r} is not a tensor of an nn.Sequential.")
    prefixes.add(match["prefix"])
    layer = layers.setdefault(int(match["index"]), {})
    layer[match["tensor"]] = _from_torch(value)
  if len(prefixes) != 1:
    raise ValueError(
      f"One nn.Sequential has one prefix, got {sorted(prefixes)}."
    )
  return layers


def _without_prefix(state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the common prefix, the classifier and PyTorch's batch counters."""
  anchors = [
    name for name in state_dict if name == ANCHOR or name.endswith("." + ANCHOR)
  ]
  if len(anchors) != 1:
    raise ValueError(
      f"One tensor must be named [prefix.]{ANCHOR}, found {anchors}."
    )
  prefix = anchors[0].removesuffix(ANCHOR)
  outside = [name for name in state_dict if not name.startswith(prefix)]
  if outside:
    raise ValueError(
      f"Unexpected tensors, without the prefix {prefix!r} of the ResNet: "
      f"{some(outside)}."
    )
  names = {name.removeprefix(prefix): name for name in state_dict}
  return {
    short: state_dict[name]
    for short, name in names.items()
    if not short.startswith("fc.") and short.split(".")[-1] != COUNTER
  }


def _paths(tensors: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
  """Maps PyTorch names to Flax paths; ValueError unless they are a ResNet's."""
  model = _network_of(tensors)
  channels = np.shape(tensors["conv1.weight"])[1]
  expected = _paths_of(model.depth, model.stem, model.width, channels)
  compare(tensors, {name: shape for name, (_, shape) in expected.items()})
  return {name: path for name, (path, _) in expected.items()}


@functools.cache
def _paths_of(
  depth: Any, stem: Any, width: int, channels: int
) -> Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]:
  model = resnet.ResNet(depth=depth, stem=stem, width=width)
  images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
  shapes = jax.eval_shape(
    lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
  )
  return {
    _torch_name(path): (path, _torch_shape(value.shape))
    for path, value in flax.traverse_util.flatten_dict(shapes).items()
  }


def _torch_name(path: tuple[str, ...]) -> str:
  """Turns `("params", "layer1_0", "bn1", "bias")` into `layer1.0.bn1.bias`."""
  collection, *modules, leaf = path
  if (collection, leaf) not in _TORCH_NAMES:
    raise ValueError(f"{'/'.join(path)} is not a variable of a ResNet.")
  name = ".".join([*modules, _TORCH_NAMES[collection, leaf]])
  name = re.sub(r"^(layer\d)_(\d+)", r"\1.\2", name)
  return name.replace("downsample_conv", "downsample.0").replace(
    "downsample_bn", "downsample.1"
  )


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def _from_torch(value: Any) -> np.ndarray:
  """Transposes kernels [out, in, ...] to [..., in, out]; vectors stay."""
  array = as_float32(value)
  if array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  return array.T


def _to_torch(value: Any) -> np.ndarray:
  array = as_float32(value)
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def compare(
  tensors: Mapping[str, Any], expected: Mapping[str, tuple[int | None, ...]]
) -> None:
  """Raises ValueError naming the tensors that do not fit a network."""
  missing = [name for name in expected if name not in tensors]
  unexpected = [name for name in tensors if name not in expected]
  misshapen = [
    f"{name} {np.shape(tensors[name])} instead of {shape}"
    for name, shape in expected.items()
    if name in tensors and np.shape(tensors[name]) != shape
  ]
  problems = [
    f"{kind} tensors: {some(names)}"
    for kind, names in (
      ("missing", missing),
      ("unexpected", unexpected),
      ("misshapen", misshapen),
    )
    if names
  ]
  if problems:
    raise ValueError("; ".join(problems) + ".")
