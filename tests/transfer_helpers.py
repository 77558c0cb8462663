"""Helpers of the tests of transfer: a bench, folders, a TFDS that refuses."""

import contextlib
import types

import folder_helpers
import numpy as np

from essl_jax import config as config_lib

SIZE = 8
SPLITS = (("train", 20, 0), ("val", 9, 50), ("test", 11, 100))


def make_bench():
  """A bench whose features are the colours of an image's quarters."""
  views = types.SimpleNamespace(first=types.SimpleNamespace(size=SIZE))
  config = types.SimpleNamespace(
    views=views, data=config_lib.Data(name="digits")
  )

  def extract(variables, split, resize, interrupt, source):
    sized = source.image_shape[:2] == (SIZE, SIZE)
    assert resize == (None if sized else (SIZE, SIZE)) and variables == 3
    interrupt()
    batches = list(source.evaluation_batches(split, 64))
    images, labels = (
      np.concatenate([x[key] for x in batches]) for key in ("image", "label")
    )
    quarters = images.reshape(len(images), 4, -1, 4, SIZE // 4, 3)
    found = quarters.mean(axis=(2, 4), dtype=np.float32)[..., 0]
    return found.reshape(len(images), -1) / 255, labels

  class Bench:
    experiment = types.SimpleNamespace(config=config)
    encoding = types.SimpleNamespace(extract=extract)
    interrupt = staticmethod(lambda: None)

    def encoder_variables(self, state):
      return state

    def progress(self, name):
      return contextlib.nullcontext(lambda done, total: None)

  return Bench()


def write_counts(root, **counts):
  """Images of the classes of `folder_helpers`, so many of each in each."""
  for split, numbers in counts.items():
    for label, count in enumerate(numbers):
      for i in range(count):
        path = root / split / folder_helpers.CLASSES[label] / f"{i}.png"
        folder_helpers.write_image(path, 80 * label + i, (9, 9))
  return str(root)


def refuse(kind, text):
  """A function in place of `open_builder` that raises."""

  def open_builder(name, data_dir, *, prepare=True):
    raise kind(f"data.name={name!r} {text}")

  return open_builder
