"""PyTorch's own files; skipped without the extra `torch`."""

import os
import subprocess
import sys

import checkpoint_forms as forms
from convert_helpers import (
  ROOT,
  Touches,
  assert_same_tensors,
  convert,
  without_counters,
)
import numpy as np
import pytest

from essl_jax.convert import files
from essl_jax.errors import UsageError

torch = pytest.importorskip("torch", reason="needs the extra `torch`")


def to_torch(tree):
  if isinstance(tree, dict):
    return {key: to_torch(value) for key, value in tree.items()}
  if isinstance(tree, np.ndarray):
    return torch.from_numpy(np.array(tree))
  return tree


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused(legacy, tmp_path):
  path, touched = tmp_path / "bad.pth", tmp_path / "touched"
  torch.save(
    {"state_dict": to_torch(forms.plain()), "extra": Touches(touched)},
    path,
    _use_new_zipfile_serialization=not legacy,
  )
  done = subprocess.run(
    [sys.executable, "-m", "essl_jax.convert", "show", str(path)],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert "nothing in it was executed" in done.stderr
  assert not touched.exists()
  torch.load(path, weights_only=False)  # checks that PyTorch reads the file
  assert touched.exists()


def exclude_bias_and_norm(parameter):
  """Barlow Twins and E-SimCLR store this function in their optimiser."""
  return parameter.ndim == 1


@pytest.mark.parametrize("form", forms.FORMS)
def test_pytorch_files_hold_the_same_as_their_arrays(
  form, tmp_path, monkeypatch
):
  tree = forms.FORMS[form][0]()
  stored = to_torch(tree)
  if "optimizer" in stored:
    monkeypatch.setattr(exclude_bias_and_norm, "__module__", "__main__")
    monkeypatch.setattr(
      sys.modules["__main__"],
      "exclude_bias_and_norm",
      exclude_bias_and_norm,
      raising=False,
    )
    stored["optimizer"]["param_groups"][0]["f"] = exclude_bias_and_norm
  path = tmp_path / "checkpoint.pth.tar"
  torch.save(stored, path)
  read, expected = forms.flat(files.read(path)), forms.flat(tree)
  arrays = {k: v for k, v in expected.items() if isinstance(v, np.ndarray)}
  assert set(read) == set(expected)
  assert_same_tensors({name: read[name] for name in arrays}, arrays)
  convert("import", path, tmp_path / "out.safetensors")


def test_pth_round_trip_is_exact(tmp_path):
  source, flax_file = tmp_path / "in.pth", tmp_path / "flax.safetensors"
  torch.save(to_torch(forms.torchvision()), source)
  convert("import", source, flax_file, "--keep-classifier")
  convert("export", flax_file, tmp_path / "out.pth")
  after = torch.load(tmp_path / "out.pth", weights_only=True)
  assert_same_tensors(
    {name: value.numpy() for name, value in after.items()},
    without_counters(forms.torchvision()),
  )


def test_half_precision_becomes_float32(tmp_path):
  path = tmp_path / "half.pth"
  value = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
  torch.save({"weight": value}, path)
  read = files.read(path)["weight"]
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, [1.5, -2.25])


@pytest.mark.parametrize("content", [b"PK\x03\x04 broken", b"text", b""])
def test_broken_pth_files_are_one_line(content, tmp_path):
  path = tmp_path / "broken.pth"
  path.write_bytes(content)
  with pytest.raises(UsageError) as error:
    files.read(path)
  assert "\n" not in str(error.value)
