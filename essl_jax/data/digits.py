"""The source `digits`: scikit-learn's hand-written digits."""

import numpy as np

from essl_jax import config as config_lib
from essl_jax.data.arrays import ArraySource, open_arrays
from essl_jax.errors import UsageError

_TEST_FRACTION = 0.2


def open_digits(settings: config_lib.Data) -> ArraySource:
  """Opens scikit-learn's digits of 8 x 8 pixels; see `load_digits`.

  Args:
    settings: `config.data`.

  Returns:
    The source.
  """
  return open_arrays(settings, load_digits())


def load_digits() -> ArraySource:
  """Loads the 8x8 handwritten digits that come with scikit-learn.

  They are 1,797 real images of ten digits (UCI Optical Recognition of
  Handwritten Digits, test part), split into 1,438 for training and 359 for
  testing, every digit in the same proportion. The split never changes.

  Returns:
    The set, with images scaled from 0..16 to 0..255, shape (8, 8, 3).

  Raises:
    UsageError: scikit-learn is not installed.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise UsageError(
      "the digits come with scikit-learn, which is not installed: "
      "pip install 'essl-jax[digits]'"
    ) from error
  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)
  labels = digits.target
  generator = np.random.default_rng(0)
  is_test = np.zeros(len(labels), bool)
  for label in range(10):
    members = generator.permutation(np.flatnonzero(labels == label))
    is_test[members[: round(_TEST_FRACTION * len(members))]] = True
  return ArraySource(
    images[~is_test], labels[~is_test], images[is_test], labels[is_test]
  )


PART = open_digits
