"""Windows of the host's crops, and draws that images share."""

import itertools

import data_helpers
import folder_helpers
import numpy as np
from PIL import Image
import pytest

from essl_jax import augment
from essl_jax.augment import View, window_name
from essl_jax.data import crops as crops_lib
from essl_jax.data.checked import CheckedSource
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

CROPS = {
  "first": View(size=6, scale=(0.1, 1), interpolation="bicubic"),
  "second": View(size=4, scale=(0.1, 0.5)),
}
COUNT, BATCH = 9, 4


@pytest.fixture(scope="module")
def pictures():
  """Images of noise that differ in size."""
  random = np.random.default_rng(0)
  return [
    random.integers(0, 256, (9 + 2 * i, 30 - i, 3), np.uint8)
    for i in range(COUNT)
  ]


@pytest.fixture(scope="module")
def source(pictures, tmp_path_factory):
  root = tmp_path_factory.mktemp("pictures")
  for split in ("train", "val"):
    for i, pixels in enumerate(pictures):
      path = root / split / f"class{i}" / "a.png"
      path.parent.mkdir(parents=True)
      Image.fromarray(pixels).save(path)
  return folder_helpers.open_folder(root)


def take(source, n, **arguments):
  """Returns the first n batches of crops."""
  arguments = {"batch_size": BATCH, "seed": 0, "crops": CROPS} | arguments
  return list(itertools.islice(source.batches(**arguments), n))


def test_windows_are_those_that_are_cut(source, pictures):
  """The host and the device cut the same crops from the picture again."""
  for batch in take(source, 3, windows=True):
    for name, view in CROPS.items():
      windows = batch[window_name(name)]
      assert windows.shape == (BATCH, 6) and windows.dtype == np.int32
      for label, window, crop in zip(
        batch["label"], windows, batch[name], strict=True
      ):
        pixels = pictures[label]
        assert tuple(window[4:]) == pixels.shape[:2]
        again = crops_lib.resized_crop(
          Image.fromarray(pixels), window[:4], view.size, view.interpolation
        )
        np.testing.assert_array_equal(crop, again)
        if view.interpolation == "bilinear":  # PIL rounds, bicubic overshoots
          on_device = augment.resized_crop(pixels[None], window[None, :4], 4)
          assert np.abs(on_device[0] * 255 - crop).max() <= 1.001


def test_windows_change_nothing_else(source):
  plain = take(source, 3)
  assert plain[0].keys() == {*CROPS, "label"}
  for one, other in zip(plain, take(source, 3, windows=True), strict=True):
    assert other.keys() == {*one, *map(window_name, CROPS)}
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def test_images_share_draws_over_processes(source):
  """Images of one size in a group share one window."""
  alike = CROPS | {"whole": View(size=4, scale=(1, 1), ratio=(1, 1))}
  sharing = {"first": 2, "whole": 4}  # a group of `whole` spans two processes
  arguments = {"crops": alike, "windows": True, "shared_by": sharing}
  (plain,), (shared,) = (
    take(source, 1, crops=alike, windows=True),
    take(source, 1, **arguments),
  )
  for name in ("second", "whole"):
    np.testing.assert_array_equal(plain[name], shared[name])
  # The first of a group keeps its own draw.
  np.testing.assert_array_equal(plain["first"][::2], shared["first"][::2])
  places, sides = np.split(shared[window_name("first")], [4], axis=1)
  draws = crops_lib.crop_draws(0, "first", 0, BATCH)
  for row, (place, side) in enumerate(zip(places, sides, strict=True)):
    expected = crops_lib.crop_box(
      draws[row // 2 * 2], *side, CROPS["first"].scale, CROPS["first"].ratio
    )
    assert tuple(place) == expected
  assert (plain["first"][1::2] != shared["first"][1::2]).any()
  parts = [
    take(source, 1, process_index=i, process_count=2, **arguments)[0]
    for i in range(2)
  ]
  for name in shared:
    joined = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(joined, shared[name])


def test_tfds_sets_tell_their_windows(tmp_path_factory):
  folder = data_helpers.make_records_dir(tmp_path_factory)
  source = data_helpers.open_source(
    "tiny_sized", dir=folder, image_size=8, resize_size=10
  )
  options = {"windows": True, "shared_by": {"first": 2}}
  (batch,) = take(source, 1, **options)
  assert batch[window_name("second")].shape == (BATCH, 6)


def test_sources_of_users_must_tell_them(source):
  """A source without windows gets the argument only if needed."""

  class Mine:
    """Gives no windows, or wrong ones."""

    num_classes, differs_in_size = COUNT, True
    image_shape, broken = source.image_shape, source.broken
    num_examples = staticmethod(source.num_examples)
    evaluation_batches = staticmethod(source.evaluation_batches)
    wrong = {}

    def batches(self, *, windows=False, **asked):
      for batch in source.batches(**asked):
        yield batch | self.wrong

  mine = Mine()
  checked = CheckedSource("mine", mine)
  assert take(checked, 1)[0].keys() == {*CROPS, "label"}
  with pytest.raises(UsageError, match="need 'window of first' but have"):
    take(checked, 1, windows=True)
  mine.wrong = {window_name(name): np.zeros((BATCH, 4), int) for name in CROPS}
  with pytest.raises(UsageError, match=r"must be int32 \[N, 6\]"):
    take(checked, 1, windows=True)
