"""Weights, lists and unit cells in a bucket."""

import pathlib
import subprocess
import sys

import bucket_helpers
import checkpoint_forms as forms
from convert_helpers import convert
import h5py
import jax
import numpy as np
from photonics_helpers import densities, permittivities
import pytest
import safetensors.numpy

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.data import subsets
from essl_jax.errors import UsageError
from essl_jax.photonics import generate
from essl_jax.photonics import source as source_lib
from essl_jax.storage import cache, places, weights

ROOT = pathlib.Path(__file__).parents[2]


def _torchvision(path):
  solid = {x: np.asarray(y, order="C") for x, y in forms.torchvision().items()}
  safetensors.numpy.save_file(solid, path)
  return path


def test_convert(workdir, tmp_path, capsys):
  """Both ways, from and to a bucket, are the same as in folders."""
  source = _torchvision(tmp_path / "resnet18.safetensors")
  bucket_helpers.send(tmp_path, workdir)
  convert("import", source, tmp_path / "a.safetensors")
  told = capsys.readouterr().out
  convert("import", workdir / source.name, workdir / "a.safetensors")
  here, there = str(tmp_path), str(workdir)
  assert capsys.readouterr().out == told.replace(here, there)
  left, metadata = weights.load(tmp_path / "a.safetensors")
  right, other = weights.load(workdir / "a.safetensors")
  jax.tree.map(np.testing.assert_array_equal, left, right)
  assert metadata == other
  found = weights.read_metadata(workdir / "a.safetensors")
  assert metadata.items() <= found.items()

  for folder in (tmp_path, workdir):
    convert("export", folder / "a.safetensors", folder / "b.safetensors")
    convert(
      *("export", folder / "b.safetensors", folder / "c.safetensors"),
      "--format=torch",
    )
    convert("show", folder / "b.safetensors")
  for name in ("b", "c"):
    file = f"{name}.safetensors"
    assert (workdir / file).read_bytes() == (tmp_path / file).read_bytes()
  with pytest.raises(UsageError, match=f"{there}/a.safetensors exists: choose"):
    convert("import", workdir / source.name, workdir / "a.safetensors")
  convert(
    *("import", workdir / source.name, workdir / "a.safetensors"),
    "--overwrite",
  )


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (("show", "gs://no_such_bucket/a.pth"), "no bucket gs://no_such_bucket:"),
    (("show", "gs://bucket/no_such.pth"), "gs://bucket has no such object"),
    (("show", "gs://bucket/bad.safetensors"), "gs://bucket/bad.safetensors"),
    (("import", "gs://bucket/a.pth", "gs://no/b.safetensors"), "no bucket gs"),
    (("import", "gs://bucket/a.pth", "gs://bucket/b.npz"), "must end in .saf"),
    (("export", "gs://bucket/no_such", "b.safetensors"), "no such object or"),
    (("export", "gs://bucket/folder", "b.safetensors"), "holds no run"),
    (("export", "gcs://bucket/folder", "b.safetensors"), "unknown scheme gcs"),
  ],
)
def test_conversions_that_cannot_be(server, arguments, told, monkeypatch):
  client = places.client(places.locate("gs://bucket/any"))
  for name in ("bad.safetensors", "folder/x"):
    client.pipe_file(f"gs://bucket/{name}", b"none")
  with pytest.raises(UsageError, match=told) as error:
    convert(*arguments)
  assert "\n" not in str(error.value)
  assert "/tmp" not in str(error.value)


def test_the_program_tells_it_in_one_line(server):
  words = ["essl_jax.convert", "show", "gs://no_such_bucket/a.pth"]
  ended = subprocess.run(
    [sys.executable, "-m", *words],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
  )
  (line,) = ended.stderr.splitlines()
  assert (ended.returncode, ended.stdout) == (2, "")
  assert line.startswith("error: cannot use gs://no_such_bucket/a.pth: there")


@pytest.mark.parametrize("request_", ["info", "get_file", "pipe_file"])
def test_without_permission(request_, workdir, tmp_path, monkeypatch):
  source = _torchvision(tmp_path / "resnet18.safetensors")
  bucket_helpers.send(tmp_path, workdir)

  def refuse(*_, **__):
    raise OSError("Forbidden: b/bucket/o\nno access")

  monkeypatch.setattr(places.client(workdir), request_, refuse)
  with pytest.raises(UsageError, match=r"log in \(gcloud auth"):
    convert("import", workdir / source.name, workdir / "a.safetensors")


def test_a_list_of_labels(workdir):
  places.replace_text(workdir / "list.txt", "a.png\n\nb.png\n")
  assert subsets.read_list(str(workdir / "list.txt")) == ["a.png", "b.png"]
  places.replace_text(workdir / "empty.txt", "\n")
  for name, told in (("empty", "is empty"), ("none", "no such object")):
    with pytest.raises(UsageError, match=told):
      subsets.read_list(f"{workdir}/{name}.txt")


def _open_cells(directory, generate=None, **more):
  settings = config_lib.Data("photonics", dir=str(directory), **more)
  return data.open_source(
    settings, {"generate": generate or source_lib.Generate()}
  )


def test_unit_cells(workdir, requests, tmp_path):
  """Each file is copied once."""
  for seed, split in enumerate(("train", "validation", "test")):
    cells = permittivities(12, seed)
    with h5py.File(tmp_path / f"{split}.h5", "w") as file:
      file["permittivity"], file["density_of_states"] = cells, densities(cells)
  bucket_helpers.send(tmp_path, workdir)
  sources = [_open_cells(x) for x in (tmp_path, workdir, workdir)]
  for source in sources[1:]:
    np.testing.assert_array_equal(
      *(
        next(x.evaluation_batches("train", 12))["image"]
        for x in (sources[0], source)
      )
    )
  assert len(requests) == len(bucket_helpers.files(cache.location())) == 3
  with pytest.raises(UsageError, match=r"lacks unlabelled\.h5: "):
    _open_cells(workdir, train_split="unlabelled")
  with pytest.raises(UsageError, match=r"gs://.*train\.h5: its arrays take"):
    _open_cells(workdir, max_bytes=1)
  with pytest.raises(UsageError, match="no such object or folder"):
    _open_cells(workdir / "none")
  with pytest.raises(UsageError, match="give a directory on this machine"):
    generate.main([f"--out={workdir}", "--kind=blob"])
