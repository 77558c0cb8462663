"""The order of training examples: a permutation for every epoch."""

from collections.abc import Iterator

import numpy as np


def epoch_orders(
  size: int, steps: int, seed: int, start_step: int
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields for every step the order of its epoch and its number therein.

  Args:
    size: number of examples.
    steps: in an epoch.
    seed: a number >= 0.
    start_step: the first step.

  Yields:
    A permutation of 0 .. size - 1, a function of (seed, epoch), and a number
    in 0 .. steps - 1; without end.
  """
  epoch, done = divmod(start_step, steps)
  while True:
    order = np.random.default_rng([seed, epoch]).permutation(size)
    for step in range(done, steps):
      yield order, step
    epoch, done = epoch + 1, 0


def batch_indices(
  size: int, steps: int, batch_size: int, seed: int, start_step: int
) -> Iterator[np.ndarray]:
  """Yields int32 [batch_size] for every step; an epoch is `steps` batches."""
  for order, step in epoch_orders(size, steps, seed, start_step):
    part = order[step * batch_size : (step + 1) * batch_size]
    yield part.astype(np.int32)
