"""Files of weights: read without executing anything, written whole."""

import json
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
from golden.weights import golden_state_dict
import jax
import numpy as np
import pytest
import safetensors.numpy

from essl_jax.convert import files
from essl_jax.errors import UsageError
from essl_jax.models import resnet
from essl_jax.models.layers import convolution
from essl_jax.storage import weights

SHAPES = json.loads((ROOT / "tests/golden/state_dict_shapes.json").read_text())


def save_torch_names(path, tensors):
  if path.suffix == ".npz":
    np.savez(path, **tensors)
  else:
    solid = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    safetensors.numpy.save_file(solid, path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_round_trip_through_files_is_exact(suffix, tmp_path, capsys):
  """PyTorch names to Flax weights to PyTorch names, without PyTorch."""
  before = forms.torchvision()
  source = tmp_path / f"resnet18{suffix}"
  save_torch_names(source, before)
  flax_file, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  torch_file = tmp_path / "torch.safetensors"
  convert("import", source, flax_file, "--keep-classifier")
  convert("export", flax_file, torch_file, "--format=torch")
  after = safetensors.numpy.load_file(torch_file)
  assert_same_tensors(after, without_counters(before))

  convert("import", torch_file, again, "--keep-classifier")
  variables, metadata = weights.load(flax_file)
  copy, _ = weights.load(again)
  jax.tree.map(np.testing.assert_array_equal, variables, copy)
  assert metadata["depth"] == 18
  assert metadata["stem"] == "imagenet"
  assert metadata["width"] == forms.WIDTH
  assert metadata["source"] == f"torchvision ResNet ({source.name})"

  printed = capsys.readouterr().out
  assert "recognised: torchvision ResNet" in printed
  assert "imported as classifier: fc." in printed


def test_the_same_weights_are_the_same_bytes(tmp_path):
  source = tmp_path / "resnet18.npz"
  save_torch_names(source, forms.plain())
  outputs = [tmp_path / f"{name}.safetensors" for name in "ab"]
  for output in outputs:
    convert("import", source, output)
  assert outputs[0].read_bytes() == outputs[1].read_bytes()
  exported = tmp_path / "c.safetensors"
  convert("export", outputs[0], exported)
  assert exported.read_bytes() == outputs[0].read_bytes()


@pytest.mark.parametrize("name", ["resnet50_96px", "cifar_resnet18_32px"])
def test_exports_have_torchvisions_names_and_shapes(name, tmp_path):
  source, flax_file = tmp_path / "golden.npz", tmp_path / "flax.safetensors"
  np.savez(source, **golden_state_dict(SHAPES[name]))
  convert("import", source, flax_file)
  output = tmp_path / "torch.safetensors"
  convert("export", flax_file, output, "--format=torch")
  tensors = safetensors.numpy.load_file(output)
  shapes = {name: list(value.shape) for name, value in tensors.items()}
  assert shapes == without_counters(SHAPES[name])


def test_imported_features_match_golden(golden, tmp_path):
  """ResNet-50 through import, file and load, against PyTorch's features."""
  golden = golden("networks")
  source, output = tmp_path / "resnet50.npz", tmp_path / "encoder.safetensors"
  np.savez(source, **golden_state_dict(SHAPES["resnet50_96px"]))
  convert("import", source, output)
  variables, metadata = weights.load(output)
  encoder = resnet.ResNet(
    depth=metadata["depth"],
    stem=metadata["stem"],
    width=metadata["width"],
    conv_general_dilated=convolution.default_conv(),
  )
  own = {name: networks["encoder"] for name, networks in variables.items()}
  apply = jax.jit(lambda own, x: encoder.apply(own, x, train=False))
  np.testing.assert_allclose(
    apply(own, golden["resnet50_96px/input"]),
    golden["resnet50_96px/eval"],
    rtol=1e-3,
    atol=1e-3,
  )


def test_files_name_arrays_by_network(tmp_path):
  source, output = tmp_path / "barlow.npz", tmp_path / "encoder.safetensors"
  np.savez(source, **forms.flat(forms.barlow_twins()["model"]))
  convert("import", source, output)
  arrays = safetensors.numpy.load_file(output)
  assert arrays["params/encoder/layer1_0/conv1/kernel"].shape == (3, 3, 8, 8)
  assert arrays["batch_stats/projector/norm_0/mean"].shape == (32,)


def test_show_reads_both_kinds_and_writes_nothing(tmp_path, capsys):
  source = tmp_path / "resnet18.npz"
  save_torch_names(source, forms.torchvision())
  convert("show", source)
  printed = capsys.readouterr().out
  assert "encoder: ResNet-18, imagenet stem, width 8" in printed
  assert "left out, classifier (--keep-classifier keeps it): fc" in printed
  assert list(tmp_path.iterdir()) == [source]
  convert("import", source, tmp_path / "flax.safetensors")
  capsys.readouterr()
  convert("show", tmp_path / "flax.safetensors")
  printed = capsys.readouterr().out
  assert "encoder: ResNet-18, imagenet stem, width 8" in printed
  assert "source: torchvision ResNet (resnet18.npz)" in printed


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["import", "no.npz", "out.safetensors"], "there is no file no.npz"),
    (["import", "in.npz", "out.npz"], "out.npz must end in .safetensors"),
    (["import", "in.npz", "full.safetensors"], "exists: .*--overwrite"),
    (["import", "in.npz", "no/out.safetensors"], "directory that exists"),
    (["import", "text.pdf", "out.safetensors"], "no known ending: give one"),
    (["import", "text.npz", "out.safetensors"], "cannot read text.npz"),
    (["import", "text.safetensors", "out.safetensors"], "cannot read text"),
    (["import", "flax.safetensors", "out.safetensors"], "weights already"),
    (["import", "bad.npz", "out.safetensors"], "bad.npz: .*bn1.running_var"),
    (["export", "no", "out.safetensors"], "holds no run"),
    (["export", "flax.safetensors", "out.bin"], "must end in .safetensors"),
    (
      ["export", "flax.safetensors", "out.npz", "--format=torch"],
      "no known ending",
    ),
    (["export", "in.safetensors", "out.safetensors"], "no Flax weights of"),
    (["show", "no.safetensors"], "there is no file"),
    (["merge"], "invalid choice: 'merge'"),
    ([], "required: command"),
  ],
)
def test_wrong_input_is_one_line(arguments, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tensors = forms.plain()
  save_torch_names(tmp_path / "in.npz", tensors)
  save_torch_names(tmp_path / "in.safetensors", tensors)
  del tensors["bn1.running_var"]
  save_torch_names(tmp_path / "bad.npz", tensors)
  for name in ("full.safetensors", "text.npz", "text.safetensors", "text.pdf"):
    (tmp_path / name).write_text("some text")
  weights.save(
    "flax.safetensors",
    {k: {"encoder": v} for k, v in forms.encoder_variables().items()},
    {"depth": 18, "stem": "cifar", "width": 8, "source": "test"},
  )
  with pytest.raises(UsageError, match=message) as error:
    convert(*arguments)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out.safetensors").exists()
  assert (tmp_path / "full.safetensors").read_text() == "some text"


def test_wrong_input_ends_the_program_with_code_2(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "essl_jax.convert", "show", "no.pth"],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 2
  assert done.stderr == "error: there is no file no.pth\n"


def test_overwrite_replaces_a_file(tmp_path):
  source, output = tmp_path / "in.npz", tmp_path / "out.safetensors"
  save_torch_names(source, forms.plain())
  output.write_text("old")
  convert("import", source, output, "--overwrite")
  assert weights.is_flax(output)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz", output.name]


def test_a_file_of_a_later_format_is_refused(tmp_path):
  header = json.dumps({"format_version": 99})
  path = tmp_path / "later.safetensors"
  path.write_bytes(weights.to_bytes({"a": np.zeros(1)}, {"essl_jax": header}))
  with pytest.raises(UsageError, match="format version 99, newer than 2"):
    weights.load(path)


@pytest.mark.parametrize(
  "header", ["{", "{}", "[1]", '{"format_version": "a"}']
)
def test_a_damaged_header_is_one_line(header, tmp_path):
  path = tmp_path / "damaged.safetensors"
  path.write_bytes(weights.to_bytes({"a": np.zeros(1)}, {"essl_jax": header}))
  with pytest.raises(UsageError, match=r"damaged\.safetensors has a damaged"):
    convert("show", path)


def test_an_encoder_that_lacks_arrays_is_not_exported(tmp_path):
  path = tmp_path / "part.safetensors"
  variables = forms.encoder_variables()
  del variables["params"]["layer1_0"]
  weights.save(
    path,
    {k: {"encoder": v} for k, v in variables.items()},
    {"depth": 18, "stem": "cifar", "width": 8, "source": "test"},
  )
  with pytest.raises(UsageError, match="holds no complete ResNet encoder"):
    convert("export", path, tmp_path / "out.npz", "--format=torch")
  assert not (tmp_path / "out.npz").exists()


def test_objects_in_npz_are_not_executed(tmp_path):
  path, touched = tmp_path / "bad.npz", tmp_path / "touched"
  np.savez(path, weight=np.array([Touches(touched)], dtype=object))
  with pytest.raises(UsageError, match="nothing in it was executed"):
    convert("show", path)
  assert not touched.exists()


def test_without_pytorch_the_line_says_what_to_install(tmp_path, monkeypatch):
  """Only writing its files needs PyTorch; reading does not."""
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UsageError, match=r"pip install 'essl-jax\[torch\]'"):
    files.write_state_dict(tmp_path / "out.pth", {"a": np.zeros(2)})
