"""Odd, damaged and hostile files of weights: one line, little memory."""

import json
import os
import pickle
import re
import resource
import struct
import zipfile

import checkpoint_forms as forms
from convert_helpers import (
  Raw,
  call,
  convert,
  named,
  operations,
  pickled,
  tensor,
  write_pth,
  write_state_dict,
)
import ml_dtypes
import numpy as np
import pytest

from essl_jax.convert import files, pickles, recognise, torch_pickles
from essl_jax.convert.arrays import Unread
from essl_jax.equivariance.prediction import Prediction
from essl_jax.errors import UsageError
from essl_jax.storage import tensors, weights

pytestmark = pytest.mark.quick

VALUES = np.arange(6, dtype=np.float32)
GIB = 2**30


def refused(function, *arguments, **options):
  """Returns a call's one-line error; the call must use little memory."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(UsageError) as error:
    function(*arguments, **options)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 200_000, "kilobytes more than before"
  assert "\n" not in str(error.value)
  return str(error.value)


def save_header(path, header, content=b""):
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def save_npy(path, header, content=b"", method=zipfile.ZIP_STORED):
  """An `.npz` of one array `a` with this header."""
  text = repr(header).encode().ljust(118) + b"\n"
  magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
  with zipfile.ZipFile(path, "w", method) as file:
    file.writestr("a.npy", magic + text + content)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
  "array",
  [
    np.float32([[1.5, -2], [np.nan, np.inf]]),
    np.float64([1e-300, 2]),
    np.float16([1.5, 65504, 6e-8]),
    np.float32([1.5, -3e38, 1e-40]).astype(ml_dtypes.bfloat16),
    np.arange(5),
    np.int8([-1, 2]),
    np.array([True, False]),
    np.asarray(np.float32(7)),
    np.zeros((0, 3), np.float32),
  ],
  ids=lambda x: f"{x.dtype}-{x.ndim}d",
)
def test_pytorch_files_are_read_exactly_without_pytorch(
  array, legacy, tmp_path
):
  """Half precision, also bfloat16, becomes float32; other types stay."""
  path = tmp_path / "a.pth"
  write_state_dict(path, {"a": array, "b": VALUES}, legacy=legacy)
  read = files.read(path)
  half = array.dtype.itemsize == 2
  np.testing.assert_array_equal(
    read["a"], array.astype(np.float32) if half else array
  )
  assert read["a"].dtype == (np.float32 if half else array.dtype)
  np.testing.assert_array_equal(read["b"], VALUES)


def test_views_of_one_storage_are_read(tmp_path):
  path = tmp_path / "a.pth"
  tree = {
    "all": tensor(VALUES),
    "transposed": tensor(VALUES, shape=(2, 3), strides=(1, 2)),
    "repeated": tensor(VALUES, shape=(2, 2), strides=(0, 0)),
  }
  write_pth(path, tree, {"0": VALUES})
  read = files.read(path)
  np.testing.assert_array_equal(read["transposed"], VALUES.reshape(3, 2).T)
  np.testing.assert_array_equal(read["repeated"], np.zeros((2, 2)))


def test_bfloat16_is_read_exactly_from_every_kind_of_file(tmp_path):
  """NumPy stores ml_dtypes' bfloat16 as two bytes without a type."""
  every = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
  expected = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
  np.savez(tmp_path / "a.npz", a=every)
  write_state_dict(tmp_path / "a.pth", {"a": every})
  about = {"dtype": "BF16", "shape": [2**16], "data_offsets": [0, 2**17]}
  save_header(tmp_path / "a.safetensors", {"a": about}, every.tobytes())
  for suffix in ("npz", "pth", "safetensors"):
    read = files.read(tmp_path / f"a.{suffix}")["a"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected, err_msg=suffix)
  arrays, _ = tensors.read(tmp_path / "a.safetensors")
  assert arrays["a"].tobytes() == every.tobytes()


def test_float8_is_one_line(tmp_path):
  """An `.npz` does not store the type; other files name it."""
  about = {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}
  save_header(tmp_path / "a.safetensors", {"a": about}, b"12")
  assert files.read(tmp_path / "a.safetensors") == {"a": Unread("F8_E4M3")}
  np.savez(tmp_path / "a.npz", a=np.zeros(2, ml_dtypes.float8_e4m3fn))
  assert files.read(tmp_path / "a.npz") == {
    "a": Unread("float8 or other untyped")
  }
  np.savez(tmp_path / "b.npz", a=np.zeros(2, ml_dtypes.float8_e5m2))
  assert "<f1" in refused(files.read, tmp_path / "b.npz")
  network = forms.plain() | {"layer1.0.bn1.bias": Unread("F8_E4M3")}
  assert "layer1.0.bn1.bias is a F8_E4M3 tensor" in refused(
    recognise.import_checkpoint, network
  )


@pytest.mark.parametrize(
  ("form", "kind"),
  [
    ("_rebuild_sparse_tensor", "sparse"),
    ("_rebuild_sparse_csr_tensor", "sparse csr"),
    ("_rebuild_meta_tensor_no_storage", "meta"),
    ("_rebuild_qtensor", "quantised"),
    ("_rebuild_nested_tensor", "nested"),
  ],
)
def test_tensors_of_other_kinds_are_left_out_by_name(form, kind, tmp_path):
  """They are refused only if the encoder needs them."""
  path = tmp_path / "a.pth"
  odd = call("torch._utils", form, 1, (2,), "x")
  write_pth(path, {"a": tensor(VALUES), "b": odd}, {"0": VALUES})
  assert files.read(path)["b"] == Unread(kind)
  head = {"projector.0.weight": np.zeros((4, 64), np.float32)}
  tree = forms.plain() | head | {"projector.0.bias": Unread(kind)}
  imported = recognise.import_checkpoint(tree)
  assert set(imported.variables["params"]) == {"encoder"}
  assert set(head) <= set(imported.left_out)
  assert (
    f"projector.0.bias is a {kind} tensor"
    in (imported.left_out["projector.0.weight"])
  )


@pytest.mark.parametrize(
  "value",
  [
    np.zeros(8, np.complex64),
    np.zeros(8, bool),
    np.zeros(8, np.int8),
    np.asarray(np.float32(0)),
  ],
  ids=lambda x: x.dtype.name,
)
def test_weights_are_floating_point_numbers_of_the_right_shape(value):
  """Complex numbers, integers and booleans are not weights of a ResNet."""
  tree = forms.plain() | {"layer1.0.bn1.bias": value}
  assert "layer1.0.bn1.bias" in refused(recognise.import_checkpoint, tree)


def test_float64_and_nan_are_said():
  """Rounding and values that are not finite are always reported."""
  tree = forms.plain()
  tree["bn1.bias"] = np.full(8, 0.1)
  tree["bn1.weight"] = np.full(8, np.nan, np.float32)
  notes = recognise.import_checkpoint(tree).notes
  assert "encoder is rounded to float32" in notes
  assert "encoder has values that are not finite" in notes


@pytest.mark.filterwarnings("error")
def test_weights_that_float32_cannot_hold_are_said():
  tree = forms.plain()
  tree["conv1.weight"] = tree["conv1.weight"].astype(np.float64) * 1e300
  notes = recognise.import_checkpoint(tree).notes
  assert "encoder has values that are not finite" in notes


def test_negative_variances_are_said():
  tree = forms.plain()
  assert not recognise.import_checkpoint(tree).notes
  tree["bn1.running_var"] = np.full(8, -1, np.float32)
  (note,) = recognise.import_checkpoint(tree).notes
  assert note == "encoder has variances below 0: it is damaged"


def contains_itself():
  # A dictionary, stored in the memo as 0, that becomes its own entry.
  return Raw(b"}q\x00X\x01\x00\x00\x00ah\x00s")


def doubled():
  """Forty dictionaries, each twice in the next: 10**12 entries."""
  inner = b"}q\x00"
  for i in range(40):
    pair = b"".join(operations(key) + b"h" + bytes([i]) for key in ("a", "b"))
    inner += b"0}(" + pair + b"uq" + bytes([i + 1])
  return Raw(inner)


def hashed():
  """A key of nested tuples that takes forever to hash."""
  inner = b")q\x00"
  for i in range(60):
    inner += b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
  return Raw(b"}" + inner + b"K\x01s")


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    (contains_itself(), "100 deep or in themselves"),
    (doubled(), "more than 2,000 entries"),
    (Raw(b"}" * 9 + b"a"), "cannot read"),
    (Raw(b"h\x07"), "cannot read"),
    (Raw(b"j\xff\xff\xff\x7f"), "cannot read"),  # an entry of the memo
    (Raw(b"}r\xff\xff\xff\x7f0h\x00"), "cannot read"),
    (Raw(b"B\xff\xff\xff\x7fa"), "cannot read"),  # two GB of bytes
    (Raw(b"\x8e" + b"\xff" * 7 + b"\x7fa"), "cannot read"),
    ([1, 2], "holds a list instead of named tensors"),
    (named("posix", "system"), "asks for posix.system"),
    ({"a": call("builtins", "eval", "1")}, "asks for builtins.eval"),
    ({"a": call("torch", "load", "x")}, "asks for torch.load"),
    ({"a": call("torch._utils", "_rebuild_tensor_v2")}, "cannot read"),
    ({"a": tensor(VALUES, length=10**12)}, "is cut off|larger than"),
    ({"a": tensor(VALUES, shape=(10**6, 10**6))}, "larger than its storage"),
    (
      {"a": tensor(VALUES, shape=(10**6, 10**6), strides=(0, 0))},
      "more than 1 GiB: if you trust",
    ),
    ({"a": tensor(VALUES, shape=(-1,), strides=(1,))}, "impossible shape"),
    ({"a": tensor(VALUES, key="../data.pkl")}, "cannot read"),
  ],
)
def test_hostile_pickles_are_one_line(tree, message, tmp_path, monkeypatch):
  """Nothing is looked up or called; sizes are checked before memory."""
  assert torch_pickles.MOST_ENTRIES <= 200_000, "some seconds"
  monkeypatch.setattr(torch_pickles, "MOST_ENTRIES", 2000)
  path = tmp_path / "a.pth"
  write_pth(path, tree, {"0": VALUES})
  line = refused(files.read, path)
  assert re.search(message, line), line


def test_harmless_oddities_of_pickles_are_no_reason_to_refuse(tmp_path):
  """Calls that `weights_only` reads, and settings that programs store."""
  path = tmp_path / "a.pth"
  odd = {
    "args": call("argparse", "Namespace"),
    "best": call("numpy.core.multiarray", "scalar", "x"),
    "memory": call("builtins", "bytearray", 10**12),
    "hashed": hashed(),
  }
  write_pth(path, odd | {"a": tensor(VALUES)}, {"0": VALUES})
  read = files.read(path)
  np.testing.assert_array_equal(read["a"], VALUES)
  assert not any(isinstance(read[name], np.ndarray) for name in odd)


def test_the_number_of_operations_is_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(pickles, "MOST_OPERATIONS", 1000)
  write_pth(tmp_path / "a.pth", Raw(b"N0" * 1000 + b"N"), {})
  assert "more than 1,000 operations" in refused(files.read, tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_storages_that_are_cut_or_damaged_are_one_line(legacy, tmp_path):
  path = tmp_path / "a.pth"
  write_state_dict(path, {"a": VALUES, "b": VALUES}, legacy=legacy)
  content = path.read_bytes()
  for length in range(0, len(content) - 1, 7):
    path.write_bytes(content[:length])
    refused(files.read, path)
  if not legacy:  # a flipped bit, which the archive's checksum finds
    at = content.index(VALUES.tobytes()) + 2
    path.write_bytes(content[:at] + b"\x01" + content[at + 1 :])
    assert "CRC" in refused(files.read, path)


@pytest.mark.parametrize("suffix", ["npz", "pth"])
def test_encrypted_and_unknown_archives_are_one_line(suffix, tmp_path):
  path = tmp_path / f"a.{suffix}"
  if suffix == "npz":
    np.savez(path, a=VALUES)
  else:
    write_state_dict(path, {"a": VALUES})
  content = bytearray(path.read_bytes())
  first = content.index(b"PK\x01\x02")
  content[first + 8] |= 1
  path.write_bytes(content)
  assert "is encrypted" in refused(files.read, path)
  content[first + 8] &= 0xFE
  content[first + 10] = content[8] = 99
  path.write_bytes(content)
  assert "compression" in refused(files.read, path)


@pytest.mark.parametrize(
  ("header", "message"),
  [
    ({"descr": "<f4", "shape": (10**9, 9)}, "cut off, or its shape"),
    ({"descr": "<f4", "shape": (-2, -3)}, "cannot read"),
    ({"descr": "<f4", "shape": (2**62, 2**62)}, "cut off, or its shape"),
    ({"descr": "|O", "shape": (3,)}, "Python objects.*nothing in it was"),
    ({"descr": [("a", "|O")], "shape": (3,)}, "Python objects"),
    ({"descr": "<f1", "shape": (24,)}, "cannot read"),
    ({"descr": "<f4"}, "cannot read"),
    ([[[]]], "cannot read"),
  ],
)
def test_headers_of_arrays_are_checked_before_memory_is_taken(
  header, message, tmp_path
):
  path = tmp_path / "a.npz"
  if isinstance(header, dict):
    header = {"fortran_order": False} | header
  save_npy(path, header, bytes(24))
  line = refused(files.read, path)
  assert re.search(message, line), line


def test_what_a_small_file_unpacks_to_is_bounded_by_flag(tmp_path):
  """A file of a megabyte with a gigabyte of zeros."""
  path = tmp_path / "a.npz"
  np.savez_compressed(path, a=np.zeros(2**22, np.float32))
  message = refused(files.read, path, most_gib=0.01)
  assert "tensors of more than 0.01 GiB: if you trust" in message
  assert files.read(path, most_gib=0.02)["a"].shape == (2**22,)
  assert files.MOST_GIB <= 1
  line = refused(convert, "show", path, "--most-gib=0.001")
  assert "more than 0.001 GiB" in line
  assert "must be at least 0" in refused(convert, "show", path, "--most-gib=-1")


@pytest.mark.parametrize(
  "name",
  ["/dev/zero", "pipe.pth", "pipe.npz", "pipe.safetensors", "folder.pth"],
)
def test_only_regular_files_are_read(name, tmp_path):
  """Opening a pipe would block, and a device never ends."""
  path = tmp_path / "link.pth" if name == "/dev/zero" else tmp_path / name
  if name == "/dev/zero":
    path.symlink_to(name)
  elif name.startswith("folder"):
    path.mkdir()
  else:
    os.mkfifo(path)
  assert "there is no file" in refused(files.read, path)
  refused(convert, "show", path)
  refused(weights.load, path)


@pytest.mark.parametrize(
  "name", ["a\nb", "a\x1b[2J", "a\u2028b", "a" * 10_000], ids=repr
)
def test_names_cannot_break_a_line_or_act_on_a_terminal(name, capsys, tmp_path):
  network = forms.under("encoder", forms.plain())
  path = tmp_path / "a.pth"
  write_state_dict(path, network | {f"decoder.{name}": VALUES})
  if len(name) > 500:
    assert "characters" in refused(convert, "show", path)
    return
  convert("show", path)
  lines = capsys.readouterr().out
  assert lines.replace("\n", "").isprintable()
  assert "left out, not a known network: decoder.a\\" in lines
  write_state_dict(path, {f"layer1.{name}": VALUES})
  assert "it holds layer1.a\\" in refused(convert, "show", path)


OWN = {"depth": 18, "stem": "cifar", "width": 8, "source": "test"}


def save_own(path, metadata, names=("params/encoder/conv1/kernel",)):
  header = {"format_version": 1} | metadata
  arrays = dict.fromkeys(names, VALUES)
  path.write_bytes(weights.to_bytes(arrays, {"essl_jax": json.dumps(header)}))


@pytest.mark.parametrize(
  "change",
  [
    {"depth": None},
    {"stem": 3},
    {"width": "8"},
    {"depth": [18]},
    {"format_version": float("inf")},
    {"format_version": None},
  ],
)
@pytest.mark.parametrize("drops", [False, True])
def test_our_own_metadata_in_part_or_of_wrong_types(change, drops, tmp_path):
  """`depth` without `stem`, numbers as text: one line that says so."""
  path = tmp_path / "a.safetensors"
  metadata = {"format_version": 1} | OWN | change
  if drops:
    metadata = {k: v for k, v in metadata.items() if k not in change}
  text = json.dumps(metadata)
  path.write_bytes(weights.to_bytes({"params/a/b": VALUES}, {"essl_jax": text}))
  for command in (["show", path], ["export", path, tmp_path / "b.safetensors"]):
    assert "damaged header" in refused(convert, *command)
  assert "damaged header" in refused(weights.load, path)


def test_metadata_that_is_deep_is_one_line(tmp_path):
  path = tmp_path / "a.safetensors"
  text = "[" * 100_000
  path.write_bytes(weights.to_bytes({"params/a/b": VALUES}, {"essl_jax": text}))
  assert "damaged header" in refused(convert, "show", path)


def test_our_own_metadata_without_an_encoder(tmp_path, capsys):
  """An encoder that is not a ResNet has no depth, stem and width."""
  path = tmp_path / "a.safetensors"
  save_own(path, {"source": "a\x1b[2J\ud800"})
  convert("show", path)
  assert "source: a\\x1b[2J\\ud800" in capsys.readouterr().out


@pytest.mark.parametrize(
  "names",
  [
    ["params"],
    ["params/encoder"],
    ["params/a/b", "params/a/b/c"],
    ["params/a/b/c", "params/a/b"],
    ["/".join("a" * 5000)],
    [""],
  ],
)
def test_names_that_make_no_tree_are_one_line(names, tmp_path):
  path = tmp_path / "a.safetensors"
  save_own(path, OWN, names)
  for function in (weights.load, lambda path: convert("show", path)):
    assert "entries that are not weights" in refused(function, path)


@pytest.mark.parametrize(
  "header",
  [
    {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}},
    {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
    {"a": {"dtype": "F32", "shape": [0, 2**62, 8], "data_offsets": [0, 0]}},
    {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
    {"a": {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}},
    {"a": 3},
    [],
  ],
)
def test_headers_of_safetensors_are_one_line(header, tmp_path):
  path = tmp_path / "a.safetensors"
  end = 4 if "[0, 4]" in json.dumps(header) else 0
  save_header(path, header, bytes(end))
  refused(files.read, path)


def test_a_damaged_description_of_a_head_does_not_fit():
  """If `equivariance` has a wrong type, a line says the head is random."""
  term = Prediction()
  for damaged in (3, "rotation", [], {}):
    assert term.unfit_heads({"equivariance": damaged})
  assert not term.unfit_heads({})


def test_pickled_is_a_pickle():
  """The tests' own writer agrees with Python's reader."""
  value = {"a": [1, (2, -300, 10**30)], "b": {"c": True}}
  assert pickle.loads(pickled(value)) == value


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_metadata_of_others_may_be_anything(metadata, tmp_path):
  """The format's own readers accept null."""
  path = tmp_path / "a.safetensors"
  about = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
  save_header(path, {"__metadata__": metadata, "a": about}, VALUES.tobytes())
  assert "no ResNet or ViT in it" in refused(convert, "show", path)
  assert "holds no Flax weights" in refused(weights.load, path)
  assert not weights.is_flax(path)


def test_two_members_of_one_name_are_refused(tmp_path):
  """With `a` and `a.npy`, it is unclear which one was meant."""
  path = tmp_path / "a.npz"
  np.savez(path, a=VALUES)
  with zipfile.ZipFile(path, "a") as file:
    file.writestr("a", "no array")
  assert "two members named a" in refused(files.read, path)


@pytest.mark.parametrize("command", ["import", "export"])
def test_what_is_no_regular_file_is_not_replaced(command, tmp_path):
  """Otherwise --overwrite would turn a device into a file."""
  path = tmp_path / "a.safetensors"
  path.symlink_to("/dev/null")
  line = refused(convert, command, tmp_path / "b.npz", path, "--overwrite")
  assert "cannot write" in line
  assert path.is_symlink()
