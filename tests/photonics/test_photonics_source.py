"""Unit cells as a source: scaling, splits, generation, missing files."""

import dataclasses

from data_helpers import open_source
import numpy as np
import photonics_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.errors import UsageError
from essl_jax.photonics import dataset, settings, storage
from essl_jax.photonics import source as source_lib

SIZES = {"unlabelled": 20, "train": 6, "validation": 4, "test": 5}


def open_cells(folder, split, **own):
  """Opens the cells of a folder."""
  asked_for = config_lib.Data("photonics", str(folder), train_split=split)
  return source_lib.open_cells(asked_for, **own)


def test_cells_are_made_once_and_scaled(monkeypatch, tmp_path):
  asked = photonics_helpers.stand_in(monkeypatch, SIZES)
  asked_for = config_lib.Data(
    "photonics",
    str(tmp_path / "cells"),
    train_split="unlabelled[:16]",
    test_split="test[:3]",
  )
  own = {"generate": source_lib.Generate("blob", 11, 20, 3)}
  source = data.open_source(asked_for, own)
  assert asked == [
    {
      "kind": "blob",
      "labelled": "11",
      "unlabelled": "20",
      "seed": "3",
      "out": str(tmp_path / "cells"),
    }
  ]
  assert source.num_examples("train") == 16
  assert source.num_examples("test") == 3
  assert source.image_shape == (32, 32, 1)
  raw = photonics_helpers.permittivities(20, 0)[:16, ..., None]
  np.testing.assert_allclose(source.train_images, (raw - 1) / 19, atol=1e-6)
  assert source.train_images.dtype == np.float32
  assert source.train_images.min() >= 0 and source.train_images.max() <= 1
  assert [len(source.labelled[x]) for x in list(SIZES)[1:]] == [6, 4, 5]
  assert source.labelled["test"].density.shape == (5, 400)
  (tmp_path / "cells").mkdir()
  for split in SIZES:
    (tmp_path / "cells" / f"{split}.h5").touch()
  data.open_source(asked_for, own)
  assert len(asked) == 1, "what is there is not made again"


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"seed": 1}, "cells with seed 0, but config.data.generate has seed 1"),
    ({"kind": "gpm"}, "cells with kind blob, but config.*has kind gpm"),
    ({"labelled": 20}, "cells with labelled 11, but config.*has labelled 20"),
    ({"unlabelled": 0}, "generate.unlabelled=0 must be above 0"),
    ({"labelled": 9}, "generate.labelled=9 leaves no cells to validate on"),
  ],
)
def test_cells_of_other_settings_are_refused(
  monkeypatch, tmp_path, changes, expected
):
  asked = photonics_helpers.stand_in(monkeypatch, SIZES)
  made = settings.make("blob", 0, 11, 20)
  storage.write_manifest(tmp_path, {"settings": made})
  for name in SIZES:
    (tmp_path / f"{name}.h5").touch()
  wanted = source_lib.Generate("blob", 11, 20)
  for generate in (wanted, source_lib.Generate()):
    source = open_cells(tmp_path, "unlabelled", generate=generate)
    assert source.made == {"kind": "blob", "seed": 0}
  other = dataclasses.replace(wanted, **changes)
  with pytest.raises(UsageError, match=expected) as error:
    open_cells(tmp_path, "unlabelled", generate=other)
  assert "\n" not in str(error.value) and not asked


@pytest.mark.parametrize(
  ("directory", "split", "expected"),
  [
    ("cells", "unlabeled", "unknown split 'unlabeled': give one of"),
    (None, "unlabelled", "data.name=photonics needs --config.data.dir=DIR"),
    ("nowhere", "unlabelled", "nowhere lacks unlabelled.h5, train.h5"),
    ("cells", "labelled", "unknown split 'labelled': give one of"),
    ("cells", "unlabelled[:21]", "0 to 21 of the 20 in 'unlabelled'"),
  ],
)
def test_what_is_missing_is_named(
  monkeypatch, tmp_path, directory, split, expected
):
  monkeypatch.chdir(tmp_path)
  photonics_helpers.stand_in(monkeypatch, SIZES)
  (tmp_path / "cells").mkdir()
  for name in SIZES:
    (tmp_path / "cells" / f"{name}.h5").touch()
  with pytest.raises(UsageError, match=expected) as error:
    open_source("photonics", dir=directory, train_split=split)
  assert "\n" not in str(error.value)


def test_unlabelled_cells_are_needed_to_pretrain_on(monkeypatch, tmp_path):
  photonics_helpers.stand_in(monkeypatch, SIZES)
  for name in ("train", "validation", "test"):
    (tmp_path / f"{name}.h5").touch()
  source = open_cells(tmp_path, "train")
  assert source.num_examples("train") == SIZES["train"]
  with pytest.raises(UsageError, match="lacks unlabelled.h5: `python"):
    open_cells(tmp_path, "unlabelled[:3]")


def test_densities_are_needed(monkeypatch, tmp_path):
  photonics_helpers.stand_in(monkeypatch, SIZES)
  for name in SIZES:
    (tmp_path / f"{name}.h5").touch()
  load = dataset.load
  bare = lambda directory, split, **_: load(directory, split)._replace(
    density_of_states=None
  )
  monkeypatch.setattr(dataset, "load", bare)
  with pytest.raises(UsageError, match="train.h5 has no density of states"):
    open_cells(tmp_path, "unlabelled")


def test_some_cells_of_a_split_are_taken():
  source = photonics_helpers.source()
  part = source.take(np.array([3, 8]), "test")
  np.testing.assert_array_equal(part.test_images, source.test_images[[3, 8]])
  assert part.num_examples("test") == len(part.test_labels) == 2
  assert part.num_examples("train") == source.num_examples("train")
  assert part.labelled is source.labelled
