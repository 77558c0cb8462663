"""The source `digits`: scikit-learn's hand-written digits."""

from essl_jax import config as config_lib
from essl_jax.data import small_sets
from essl_jax.data.arrays import ArraySource


def open_digits(settings: config_lib.Data) -> ArraySource:
  """Opens scikit-learn's digits of 8 x 8 pixels; see `small_sets.load_digits`.

  Args:
    settings: `config.data`.

  Returns:
    The source.
  """
  return small_sets.open_arrays(settings, small_sets.load_digits())


PART = open_digits
