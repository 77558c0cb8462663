"""Orders training examples: one permutation for every epoch."""

from collections.abc import Iterator
import dataclasses

import numpy as np

from essl_jax.data.checks import check_share
from essl_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Stream:
  """The examples that `Source.batches` yields: one process's share.

  Attributes:
    size: number of examples.
    batch_size: global batch size.
    seed: of the order.
    start_step: the first step.
    process_index: the process whose share it is.
    process_count: number of shares.

  Raises:
    UsageError: an epoch would hold no batch, the batch is not divisible, or a
      number is out of range.
  """

  size: int
  batch_size: int
  seed: int
  start_step: int = 0
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self) -> None:
    if self.batch_size < 1 or self.batch_size > self.size:
      raise UsageError(
        f"batch_size={self.batch_size} does not fit a training split of "
        f"{self.size} examples: give a batch_size from 1 to {self.size}"
      )
    check_share(self.size, self.process_index, self.process_count)
    if self.batch_size % self.process_count:
      raise UsageError(
        f"batch_size={self.batch_size} is not divisible by process_count="
        f"{self.process_count}: give a multiple of it"
      )
    if self.seed < 0 or self.start_step < 0:
      raise UsageError(
        f"seed={self.seed} and start_step={self.start_step} must not be"
        " negative"
      )

  @property
  def steps(self) -> int:
    """Steps in an epoch."""
    return self.size // self.batch_size

  @property
  def share(self) -> int:
    """Examples of a batch that this process yields."""
    return self.batch_size // self.process_count

  def first(self, step: int) -> int:
    """Returns the share's first position in the stream of all batches."""
    return step * self.batch_size + self.process_index * self.share

  def places(self) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the epoch's order and where the share begins, for every step.

    Yields:
      A permutation of 0 .. size - 1, a function of (seed, epoch), and the
      share's position in it; without end.
    """
    epoch, done = divmod(self.start_step, self.steps)
    while True:
      order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
      for step in range(done, self.steps):
        yield order, self.first(step)
      epoch, done = epoch + 1, 0

  def rows(self) -> Iterator[np.ndarray]:
    """Yields the rows of the examples for every step, int32 [share]."""
    for order, place in self.places():
      yield order[place : place + self.share].astype(np.int32)
