"""Makes batches of decoded images with threads, ahead of the consumer.

Threads suffice, since PIL decodes and resizes without holding the GIL.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import dataclasses
import os
import sys
import traceback

import numpy as np
from PIL import Image

from essl_jax.augment import View, window_name
from essl_jax.data.crops import (
  center_crop,
  crop_box,
  crop_draws,
  resized_crop,
)
from essl_jax.data.order import Stream

Load = Callable[[int], tuple[Image.Image, int]]
"""`row -> (RGB image, label)`."""

BATCHES_AHEAD = 2
# While one thread waits for a file, another computes.
THREADS_PER_CORE = 2
_TASKS_PER_THREAD = 4


@dataclasses.dataclass(frozen=True)
class Job:
  """A batch to fill.

  Attributes:
    batch: arrays of equal length, by name.
    fill: writes one row of each; called once for every row, by any thread.
  """

  batch: dict[str, np.ndarray]
  fill: Callable[[int], None]


def crops_job(
  load: Load,
  stream: Stream,
  step: int,
  crops: Mapping[str, View],
  *,
  windows: bool = False,
  shared_by: Mapping[str, int] | None = None,
) -> Job:
  """Makes a job for random crops, each drawn by its position in the stream.

  Args:
    load: loads an image.
    stream: the stream whose share to make.
    step: of the batch.
    crops: the crops to draw from each image; their size, scale, ratio and
      interpolation count.
    windows: whether to include the windows.
    shared_by: how many consecutive images share a draw, by crop; must divide
      the batch.

  Returns:
    A job for uint8 [share, size, size, 3] by crop, and "label" int32 [share];
    with `windows`, also int32 [share, 6] under each crop's
    `augment.window_name`.
  """
  count, first = stream.share, stream.first(step)
  batch: dict[str, np.ndarray] = {
    name: np.empty((count, view.size, view.size, 3), np.uint8)
    for name, view in crops.items()
  }
  batch["label"] = np.empty(count, np.int32)
  if windows:
    batch |= {
      window_name(name): np.empty((count, 6), np.int32) for name in crops
    }
  draws = {
    name: _shared_draws(stream.seed, name, first, count, shared_by or {})
    for name in crops
  }

  def fill(row: int) -> None:
    image, batch["label"][row] = load(row)
    for name, view in crops.items():
      box = crop_box(
        draws[name][row].tolist(),
        image.height,
        image.width,
        view.scale,
        view.ratio,
      )
      batch[name][row] = resized_crop(image, box, view.size, view.interpolation)
      if windows:
        batch[window_name(name)][row] = (*box, image.height, image.width)

  return Job(batch, fill)


def _shared_draws(
  seed: int, name: str, first: int, count: int, shared_by: Mapping[str, int]
) -> np.ndarray:
  """Like `crop_draws`, but each group of images shares its first one's draw."""
  number = shared_by.get(name, 1)
  before = first % number  # images of the first group in another share
  drawn = crop_draws(seed, name, first - before, before + count)
  rows = before + np.arange(count)
  return drawn[rows - rows % number]


def images_job(
  load: Load, count: int, shape: tuple[int, int, int], resize: int | None
) -> Job:
  """Makes a job for whole images.

  Args:
    load: loads an image.
    count: number of images.
    shape: of the images in the batch.
    resize: length of an image's shorter side before its centre is cropped;
      None if all images have the shape.

  Returns:
    A job for "image" uint8 [count, *shape] and "label" int32 [count].
  """
  batch: dict[str, np.ndarray] = {
    "image": np.empty((count, *shape), np.uint8),
    "label": np.empty(count, np.int32),
  }

  def fill(row: int) -> None:
    image, batch["label"][row] = load(row)
    if resize is None:
      batch["image"][row] = np.asarray(image)
    else:
      batch["image"][row] = center_crop(image, resize, shape[0])

  return Job(batch, fill)


def run(jobs: Iterable[Job]) -> Iterator[dict[str, np.ndarray]]:
  """Yields the batches of jobs in order, making some ahead.

  Args:
    jobs: read as needed; may be infinite.

  Yields:
    Every job's batch once it is filled. Exceptions of `Job.fill` pass through.
  """
  threads = THREADS_PER_CORE * cores()
  # Bound here: an open generator is closed after Python unloads its modules.
  is_finalizing = sys.is_finalizing
  pool = futures.ThreadPoolExecutor(threads, "essl_jax_images")
  begun: deque[tuple[list[futures.Future], dict[str, np.ndarray]]] = deque()
  try:
    for job in jobs:
      begun.append((_start(pool, threads, job), job.batch))
      rows = sum(len(batch["label"]) for _, batch in begun)
      if len(begun) > BATCHES_AHEAD and rows > 2 * threads:
        yield _finish(*begun.popleft())
    while begun:
      yield _finish(*begun.popleft())
  finally:
    if not is_finalizing():
      pool.shutdown(wait=False, cancel_futures=True)


def _start(
  pool: futures.ThreadPoolExecutor, threads: int, job: Job
) -> list[futures.Future]:
  """Hands the rows of a job to the threads, several at a time."""
  count = len(job.batch["label"])
  together = max(1, count // (threads * _TASKS_PER_THREAD))

  def fill(rows: range) -> None:
    try:
      for row in rows:
        job.fill(row)
    except BaseException as error:
      # The frames hold a large image, and other threads wait for its memory.
      traceback.clear_frames(error.__traceback__)
      raise

  return [
    pool.submit(fill, range(start, min(start + together, count)))
    for start in range(0, count, together)
  ]


def _finish(
  tasks: list[futures.Future], batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  for task in tasks:
    task.result()
  return batch


def cores() -> int:
  """Returns the number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
