"""What the tests of converted files share."""

import functools
import json
import pathlib
import zipfile

from golden.weights import golden_array
import jax
import numpy as np

from essl_jax import convert as convert_lib
from essl_jax.convert import __main__ as program
from essl_jax.models import vit

ROOT = pathlib.Path(__file__).parents[1]


class Touches:
  """Unpickling it writes a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (pathlib.Path.touch, (pathlib.Path(self.path),))


def convert(*arguments):
  """Runs `python -m essl_jax.convert` in this process."""
  program.main([str(argument) for argument in arguments])


def assert_same_tensors(a, b):
  assert set(a) == set(b)
  for name, value in a.items():
    assert value.dtype == b[name].dtype, name
    np.testing.assert_array_equal(value, b[name], err_msg=name)


def without_counters(tensors):
  """A state dict as it comes back: Flax has no batch counters."""
  return {k: v for k, v in tensors.items() if not k.endswith("tracked")}


# What PyTorch calls the storages of these types.
STORAGES = {
  "float64": "Double",
  "float32": "Float",
  "float16": "Half",
  "bfloat16": "BFloat16",
  "int64": "Long",
  "int8": "Char",
  "bool": "Bool",
  "complex64": "ComplexFloat",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Raw(bytes):
  """Operations of a pickle, as they are."""


def named(module, name):
  return Raw(f"c{module}\n{name}\n".encode())


def call(module, name, *arguments):
  return Raw(named(module, name) + operations(arguments) + b"R")


def tensor(
  array,
  key="0",
  *,
  legacy=False,
  length=None,
  shape=None,
  strides=None,
  dtype=None,
):
  """A tensor as `torch.save` describes it; the storage's bytes lie beside."""
  dtype = dtype or array.dtype.name
  length = array.size if length is None else length
  shape = array.shape if shape is None else shape
  if strides is None:
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
  storage = ("storage", named("torch", f"{STORAGES[dtype]}Storage"), key, "cpu")
  view = (Raw(b"N"),) if legacy else ()
  return call(
    "torch._utils",
    "_rebuild_tensor_v2",
    Raw(operations((*storage, length, *view)) + b"Q"),
    0,
    shape,
    strides,
    False,
    call("collections", "OrderedDict"),
  )


def operations(value):
  """The operations of a pickle that make a value."""
  if isinstance(value, Raw):
    return value
  if isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if isinstance(value, int):
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content
  if isinstance(value, str):
    content = value.encode()
    return b"X" + len(content).to_bytes(4, "little") + content
  if isinstance(value, dict):
    pairs = [operations(x) for pair in value.items() for x in pair]
    return b"}(" + b"".join(pairs) + b"u"
  kinds = {list: (b"](", b"e"), tuple: (b"(", b"t")}
  before, after = kinds[type(value)]
  return before + b"".join(map(operations, value)) + after


def pickled(value):
  return b"\x80\x02" + operations(value) + b"."


def write_pth(path, tree, contents, *, legacy=False, method=zipfile.ZIP_STORED):
  """Writes a file of `torch.save` without PyTorch.

  Args:
    path: the file.
    tree: what `operations` takes, with `tensor`s.
    contents: storage to its array or bytes.
    legacy: the form before PyTorch 1.6.
    method: how the archive is compressed; PyTorch's are not.
  """
  parts = {
    key: x if isinstance(x, bytes) else x.tobytes()
    for key, x in contents.items()
  }
  if not legacy:
    with zipfile.ZipFile(path, "w", method) as file:
      file.writestr("archive/data.pkl", pickled(tree))
      file.writestr("archive/byteorder", "little")
      for key, content in parts.items():
        file.writestr(f"archive/data/{key}", content)
      file.writestr("archive/version", "3\n")
    return
  about = {"protocol_version": 1001, "little_endian": True}
  heads = (MAGIC, 1001, about, tree, list(parts))
  content = b"".join(map(pickled, heads))
  for key, part in parts.items():
    content += contents[key].size.to_bytes(8, "little") + part
  path.write_bytes(content)


def write_state_dict(path, tensors, *, legacy=False):
  """Writes arrays as `torch.save` does, without PyTorch."""
  arrays = {str(i): x for i, x in enumerate(tensors.values())}
  tree = {
    name: tensor(array, str(i), legacy=legacy)
    for i, (name, array) in enumerate(tensors.items())
  }
  write_pth(path, tree, arrays, legacy=legacy)


def write_tree(path, tree):
  """Writes nested dictionaries of arrays as `torch.save` does, without it."""
  contents = {}

  def describe(value):
    if isinstance(value, dict):
      return {key: describe(x) for key, x in value.items()}
    if not isinstance(value, np.ndarray):
      return value
    contents[str(len(contents))] = value
    return tensor(value, str(len(contents) - 1))

  write_pth(path, describe(tree), contents)


@functools.cache
def _published():
  path = ROOT / "tests/golden/checkpoint_names.json"
  return json.loads(path.read_text())


def published(name, entry=None):
  """A checkpoint under the names that others publish, filled from them alone.

  Args:
    name: of the form in `checkpoint_names.json`.
    entry: which dictionary of the file it is; the whole file if absent.

  Returns:
    A new state dict of arrays.
  """
  key = name if entry is None else f'{name} (file["{entry}"])'
  shapes = _published()[key]
  return {x: golden_array(x, tuple(shape)) for x, shape in shapes.items()}


def timm_vit(**fields):
  """A state dict of timm's names with the same number everywhere.

  Args:
    **fields: of `ViT`; two blocks of width 48 with patches of 4 by default.
  """
  common = {"image_size": 32, "patch": 4, "width": 48, "depth": 2, "heads": 1}
  model = vit.ViT(**common | fields)
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct((1, model.patch, model.patch, 3), np.float32),
  )
  encoder = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
  return convert_lib.to_torch_vit(
    encoder, image_size=model.image_size, patch=model.patch, pool=model.pool
  )
