"""Damages files of weights, and checks how they are read."""

import contextlib
import functools
import io
import json
import resource
import struct
import time
import zipfile

import checkpoint_forms as forms
from convert_helpers import (
  Raw,
  convert,
  named,
  operations,
  tensor,
  timm_vit,
  write_pth,
  write_state_dict,
)
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import safetensors.numpy

from essl_jax.errors import UsageError
from essl_jax.storage import weights

SUFFIXES = {
  "own": ".safetensors",
  "safetensors": ".safetensors",
  "vit": ".safetensors",
  "npz": ".npz",
  "compressed": ".npz",
  "pth": ".pth",
  "legacy": ".pth",
}
SECONDS = 10


@functools.cache
def networks():
  """A ResNet-18 of width 1 with a projector, under PyTorch's names."""
  tensors = forms.convert.to_torch_resnet(forms.encoder_variables(width=1))
  head = forms.linear(0, 8, 4) | forms.norm(1, 4) | forms.linear(3, 4, 4)
  return forms.under("encoder", tensors) | forms.under("projector", head)


def write(path, kind):
  """Writes a whole file of a kind."""
  if kind == "own":
    variables = forms.encoder_variables(width=1)
    weights.save(
      path,
      {name: {"encoder": x} for name, x in variables.items()},
      {"depth": 18, "stem": "cifar", "width": 1, "source": "test"},
      overwrite=True,
    )
  elif kind in ("safetensors", "vit"):
    found = networks()
    if kind == "vit":
      fields = {"image_size": 8, "patch": 4, "width": 16, "depth": 2}
      found = forms.under("module.base_encoder", timm_vit(**fields))
    solid = {k: np.asarray(x, order="C") for k, x in found.items()}
    safetensors.numpy.save_file(solid, path)
  elif kind in ("npz", "compressed"):
    save = np.savez if kind == "npz" else np.savez_compressed
    save(path, **networks())
  else:
    write_state_dict(path, networks(), legacy=kind == "legacy")


def check(path):
  """Reads a file: it ends in time, with figures or with one line."""
  begin, output = time.monotonic(), io.StringIO()
  options = ("--most-gib=0.05", "--keep-classifier")
  if b"cls_token" in path.read_bytes():
    options += ("--attention-heads=2",)
  try:
    with contextlib.redirect_stdout(output):
      convert("show", path, *options)
    line = output.getvalue().replace("\n", "")
  except UsageError as error:
    line = str(error)
  assert line.isprintable(), "one line, which may not act on a terminal"
  assert len(line) > 20, "never silent"
  assert time.monotonic() - begin < SECONDS


@contextlib.contextmanager
def little_memory(mebibytes=400):
  """Checks that what happens inside takes little memory at any time."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  yield
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert (after - before) / 1024 < mebibytes


# Where something is, counted from the beginning or from the end: headers lie at
# either of them.
_PLACES = st.one_of(
  st.integers(0, 300),
  st.integers(-600, -1),
  st.integers(-(2**17), 2**17),
)
_BYTES = st.one_of(
  st.binary(min_size=1, max_size=8),
  st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8]),
  st.sampled_from([b"PK\x01\x02", b"}", b"[", b"(", b"R", b"\x81", b"-", b"9"]),
)
CHANGES = st.lists(
  st.one_of(
    st.tuples(st.just("flip"), _PLACES, st.integers(0, 7)),
    st.tuples(st.just("put"), _PLACES, _BYTES),
    st.tuples(st.just("insert"), _PLACES, _BYTES),
    st.tuples(st.just("remove"), _PLACES, st.integers(1, 2000)),
    st.tuples(st.just("repeat"), _PLACES, st.integers(1, 2000)),
    st.tuples(st.just("cut"), _PLACES, st.none()),
  ),
  min_size=1,
  max_size=4,
)


def damaged(content, changes):
  """A file after some changes."""
  found = bytearray(content)
  for kind, place, what in changes:
    if not found:
      break
    at = place % len(found)
    if kind == "flip":
      found[at] ^= 1 << what
    elif kind == "put":
      found[at : at + len(what)] = what
    elif kind == "insert":
      found[at:at] = what
    elif kind == "remove":
      del found[at : at + what]
    elif kind == "repeat":
      found[at:at] = found[at : at + what]
    else:
      del found[at:]
  return bytes(found)


_NUMBERS = st.one_of(
  st.integers(-2, 9), st.sampled_from([2**31, 2**62, 2**64, -(2**63), 10**30])
)
_NAMES = st.one_of(
  st.sampled_from(
    [
      "layer1.0.conv1.weight",
      "encoder.layer1.0.conv1.weight",
      "patch_embed.proj.weight",
      "cls_token",
      "pos_embed",
      "blocks.0.mlp.fc1.weight",
      "blocks.7.norm1.bias",
      "params/encoder/conv1/kernel",
      "params",
      "params/encoder/conv1",
      "fc.weight",
      "__metadata__",
    ]
  ),
  st.text(max_size=8),
)
_JSON = st.recursive(
  st.one_of(
    st.none(), st.booleans(), _NUMBERS, st.floats(), st.text(max_size=5)
  ),
  lambda x: st.one_of(
    st.lists(x, max_size=3), st.dictionaries(_NAMES, x, max_size=3)
  ),
  max_leaves=6,
)
_ENTRIES = st.fixed_dictionaries(
  {
    "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "C64", "BOOL", "x"]),
    "shape": st.lists(_NUMBERS, max_size=4),
    "data_offsets": st.one_of(
      st.just([0, 24]), st.lists(_NUMBERS, min_size=1, max_size=3)
    ),
  }
)
SAFETENSORS = st.dictionaries(_NAMES, st.one_of(_ENTRIES, _JSON), max_size=4)
METADATA = st.one_of(
  _JSON,
  st.fixed_dictionaries(
    {"format_version": st.one_of(st.just(1), _JSON)},
    optional={
      name: st.one_of(st.just(18), st.just("cifar"), _JSON)
      for name in ("depth", "stem", "width", "source", "equivariance")
    },
  ),
)
ARRAYS = st.one_of(
  _JSON,
  st.fixed_dictionaries(
    {
      "descr": st.one_of(
        st.sampled_from(["<f4", "|O", "<V2", "|V1", "<U3", "<M8[s]", ">c16"]),
        st.just([("a", "<f4"), ("b", "|O")]),
        st.just(("<f4", (2, 3))),
        _JSON,
      ),
      "fortran_order": st.one_of(st.booleans(), _JSON),
      "shape": st.one_of(
        st.lists(_NUMBERS, max_size=4).map(tuple), st.just((2, 3)), _JSON
      ),
    }
  ),
)
_VALUES = np.arange(6, dtype=np.float32)
_PIECES = st.one_of(
  st.sampled_from(
    [
      *(bytes([x]) for x in b"N.(}]){et0a2usRbQlddo\x81\x85\x86\x87\x88\x89"),
      *(b"h\0", b"h\1", b"q\0", b"q\1", b"K\1", b"\x94", b"\x93", b"\x8f\x90"),
      *(b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f"),
      *(b"\x8b\xff\xff\xff\x7f", b"I9\n", b"F1e999\n", b"V\\ud800\n"),
      named("collections", "OrderedDict"),
      named("builtins", "bytearray"),
      named("torch._utils", "_rebuild_tensor_v2"),
      named("torch._tensor", "_rebuild_from_type_v2"),
      named("torch.nn.parameter", "Parameter"),
      tensor(_VALUES),
      tensor(_VALUES, length=10**12),
      operations("layer1.0.conv1.weight"),
      operations({"a": 1}),
    ]
  ),
  st.binary(max_size=4),
  st.builds(
    lambda shape, strides: tensor(_VALUES, shape=shape, strides=strides),
    st.lists(_NUMBERS, max_size=3).map(tuple),
    st.lists(_NUMBERS, max_size=3).map(tuple),
  ),
)
PICKLES = st.lists(_PIECES, max_size=30).map(b"".join).map(Raw)


def write_safetensors(path, header):
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))


def write_metadata(path, metadata):
  arrays = {"params/encoder/conv1/kernel": _VALUES}
  path.write_bytes(weights.to_bytes(arrays, {"essl_jax": json.dumps(metadata)}))


def write_array(path, header):
  text = repr(header).encode("latin1", "replace").ljust(118) + b"\n"
  magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
  with zipfile.ZipFile(path, "w") as file:
    file.writestr("layer1.0.conv1.weight.npy", magic + text + bytes(24))


def write_pickle(path, pickle):
  write_pth(path, pickle, {"0": _VALUES})


# Files made from a structure: the file's suffix, how, and from what.
MADE = {
  "safetensors": (".safetensors", write_safetensors, SAFETENSORS),
  "metadata": (".safetensors", write_metadata, METADATA),
  "npz": (".npz", write_array, ARRAYS),
  "pth": (".pth", write_pickle, PICKLES),
}


def damage(kind, folder, settings):
  """Checks how damaged files of a kind are read."""
  path = folder / f"a{SUFFIXES[kind]}"
  write(path, kind)
  check(path)
  content = path.read_bytes()

  @settings
  @given(CHANGES)
  def run(changes):
    path.write_bytes(damaged(content, changes))
    check(path)

  with little_memory():
    run()


def make(kind, folder, settings):
  """Checks how files of a kind with arbitrary headers are read."""
  suffix, write_header, headers = MADE[kind]
  path = folder / f"a{suffix}"

  @settings
  @given(headers)
  def run(header):
    write_header(path, header)
    check(path)

  with little_memory():
    run()
