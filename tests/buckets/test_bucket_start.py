"""A run whose data, weights and workdir are in a bucket."""

import os

import bucket_helpers
from convert_helpers import convert
import fault_worker
from folder_helpers import write_folder
import program_helpers
import pytest

from essl_jax import run
from essl_jax.storage import checkpoint, metrics, places, weights
from essl_jax.training import experiment


@pytest.fixture
def config(tiny_config):
  """Of one step on 16 of 23 images."""

  def make(root, **fields):
    return tiny_config(
      data={
        "name": "folder",
        "dir": os.fspath(root),
        "test_split": "val",
        "image_size": 16,
      },
      encoder={"width": 4, "blocks": (1,)},
      epochs=1,
      optimizer={"warmup_epochs": 0},
      evaluations=("knn", "probe"),
      probe={"batch_size": 16, "epochs": 1, "repetitions": 1},
      **fields,
    )

  return make


def test_a_start_from_weights(config, workdir, tmp_path, capsys):
  """Bit for bit that of a start with everything on this machine."""
  bucket_helpers.send(write_folder(tmp_path / "images"), workdir / "images")
  first = experiment.build(config(tmp_path / "images")).create_state()
  arrays = {"params": first.params, "batch_stats": first.batch_stats}
  for root in (tmp_path, workdir):
    weights.save(root / "first.safetensors", arrays, {"source": "a test"})
    file = os.fspath(root / "first.safetensors")
    made = config(root / "images", init_from=file)
    run.run(made, places.locate(root / "run"))
    assert f"initialised from {file}: encoder" in capsys.readouterr().out
    convert("export", root / "run", root / "last.safetensors")
  assert fault_worker.differences(workdir / "run", tmp_path / "run") == ""
  left, right = (x / "last.safetensors" for x in (tmp_path, workdir))
  assert left.read_bytes() == right.read_bytes()


FOLDER = ("--config.data.name=folder", "--config.data.image_size=8")


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    ((*FOLDER, "--config.data.dir=gs://no_such/x"), "no bucket gs://no_such"),
    ((*FOLDER, "--config.data.dir=gs://bucket/no"), "is not a folder (gs"),
    ((*FOLDER, "--config.data.dir=gcs://bucket/x"), "unknown scheme gcs://"),
    (("--config.data.name=gs://no_such/x.npz",), "no bucket gs://no_such"),
    (("--config.init_from=gs://no_such/x.safetensors",), "no bucket gs://no_"),
    (("--config.init_from=gs://bucket/no.safetensors",), "no such object or f"),
    (
      ("--config.data.name=cifar10", "--config.data.dir=gs://bucket/no"),
      "data.dir='gs://bucket/no': gs://bucket has no such object",
    ),
    (("--config.data.cache_gib=-1",), "cache_gib must be at least 0"),
  ],
)
def test_wrong_input_is_one_line(
  flags, told, server, monkeypatch, capsys, tmp_path
):
  recipe, workdir = tmp_path / "recipe.py", tmp_path / "run"
  recipe.write_text(program_helpers.TINY)
  said = program_helpers.refusal(monkeypatch, capsys, recipe, workdir, *flags)
  (line,) = said.splitlines()
  assert line.startswith("error: ") and told in line
  assert not workdir.exists()


def test_figures_are_sent_before_a_checkpoint(
  config, workdir, tmp_path, monkeypatch
):
  """After the checkpoint no start logs them again, even after a kill."""
  sent, save = [], checkpoint.Checkpoints.save

  def noted(*arguments, **options):
    sent.append([x["step"] for x in metrics.read(workdir)])
    return save(*arguments, **options)

  monkeypatch.setattr(checkpoint.Checkpoints, "save", noted)
  images = write_folder(tmp_path / "images")
  run.run(config(images), workdir)
  assert sent == [[0, 1, 1]]  # before training, of the step, and the accuracy
