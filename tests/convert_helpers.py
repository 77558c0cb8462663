"""What the tests of converted files share."""

import pathlib

import numpy as np

from essl_jax.convert import __main__ as program

ROOT = pathlib.Path(__file__).parents[1]


class Touches:
  """Unpickling it writes a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (pathlib.Path.touch, (pathlib.Path(self.path),))


def convert(*arguments):
  """Runs `python -m essl_jax.convert` in this process."""
  program.main([str(argument) for argument in arguments])


def assert_same_tensors(a, b):
  assert set(a) == set(b)
  for name, value in a.items():
    assert value.dtype == b[name].dtype, name
    np.testing.assert_array_equal(value, b[name], err_msg=name)


def without_counters(tensors):
  """A state dict as it comes back: Flax has no batch counters."""
  return {k: v for k, v in tensors.items() if not k.endswith("tracked")}
