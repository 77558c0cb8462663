"""One pass over all images of a split, divided over the processes."""

from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh
import numpy as np

from essl_jax import augment
from essl_jax.data import Source
from essl_jax.data.checks import check_share
from essl_jax.devices import parallel

Function = Callable[[np.ndarray, int], jax.Array]
"""`(this process's images uint8 [n, H, W, 3], row of the first in the split)
-> results [N, ...] of the images of all processes`."""


def run(
  function: Function,
  source: Source,
  split: str,
  *,
  batch_size: int,
  mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Applies a function to every image of a split once, without augmentation.

  Each process reads and decodes its share of the images and gets the results of
  all. All batches have one shape, and all processes take equally many batches:
  black images fill the gaps, and their results are dropped.

  Args:
    function: places images on the devices and computes with them.
    source: where the images come from.
    split: the split of the source.
    batch_size: images at a time, over all devices; a multiple of their number.
    mesh: devices that share a batch; None if this process works alone.

  Returns:
    Results `[N, ...]` and labels `[N]` int32 in the source's order.

  Raises:
    ValueError: the source yields another number of examples than it promises.
    FloatingPointError: the results are not finite.
  """
  rows = parallel.rows_by_process(mesh, batch_size)
  index = 0 if mesh is None else jax.process_index()
  shares = [
    check_share(source.num_examples(split), i, len(rows))
    for i in range(len(rows))
  ]
  each = len(rows[index])
  batches = source.evaluation_batches(
    split, each, process_index=index, process_count=len(rows)
  )
  black = np.zeros((each, *source.image_shape), np.uint8)
  # The first share is the largest.
  firsts = shares[index].start + np.arange(0, len(shares[0]), each)
  results, labels = _apply(function, batches, black, firsts.tolist())
  found = _exchange(source, split, shares, labels, mesh)
  together = _in_order(results, rows, list(map(len, found)))
  if not np.isfinite(together).all():
    raise FloatingPointError(
      f"features of split {split!r} are not finite: the encoder has diverged"
    )
  return together, np.concatenate(found)


def with_keys(
  images: np.ndarray, key: jax.Array, first: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
  """Places images on the devices, each with the random key of its index.

  Args:
    images: uint8 [n, H, W, 3], the images of this process.
    key: from `jax.random.PRNGKey`; legacy keys are arrays that devices can
      share like images.
    first: row of the first image in the split.
    mesh: the devices.

  Returns:
    The images of all processes and their keys [N, 2].
  """
  keys = augment.keys_by_place(key, len(images), first)
  return parallel.shard((images, np.asarray(keys)), mesh)


def _apply(
  function: Function,
  batches: Iterator[dict[str, np.ndarray]],
  black: np.ndarray,
  firsts: list[int],
) -> tuple[list[np.ndarray], np.ndarray]:
  """The results of all processes by batch, and this process's labels."""
  nothing = {"image": black[:0], "label": np.zeros(0, np.int32)}
  labels = [nothing["label"]]
  results: list[np.ndarray] = []
  waiting: list[jax.Array] = []
  for first in firsts:
    batch = next(batches, nothing)
    labels.append(np.asarray(batch["label"], np.int32))
    images = np.asarray(batch["image"])
    if len(images) < len(black):
      images = np.concatenate([images, black[len(images) :]])
    computed = function(images, first)
    # The device computes this batch while the previous one is copied to the
    # host.
    results.extend(map(parallel.to_host, waiting))
    waiting = [computed]
  results.extend(map(parallel.to_host, waiting))
  # None are left unless the source yields more than it promised.
  labels.extend(np.asarray(batch["label"], np.int32) for batch in batches)
  return results, np.concatenate(labels)


def _exchange(
  source: Source,
  split: str,
  shares: list[range],
  labels: np.ndarray,
  mesh: Mesh | None,
) -> list[np.ndarray]:
  """The labels that each process found; ValueError if some are missing."""
  broken = len(source.broken[split])
  longest = len(shares[0])
  padded = np.zeros(longest, np.int32)
  padded[: len(labels)] = labels[:longest]
  mine = np.array([len(labels), broken], np.int32), padded
  alone = lambda tree: jax.tree.map(lambda x: x[None], tree)
  counts, everybody = (alone if mesh is None else parallel.gather)(mine)
  for share, (found, broken) in zip(shares, counts, strict=True):
    # A process may know of broken images outside its share too.
    if not len(share) - broken <= found <= len(share):
      raise ValueError(
        f"split {split!r} yielded {found} examples, but promised"
        f" {len(share)} and reported {broken} of them broken"
      )
  if not counts[:, 0].any():
    raise ValueError(f"split {split!r} yielded no examples")
  return [x[:n] for x, (n, _) in zip(everybody, counts, strict=True)]


def _in_order(
  results: list[np.ndarray], rows: list[np.ndarray], found: list[int]
) -> np.ndarray:
  """Orders the batches' rows by process and drops the padding."""
  together = np.empty((sum(found), *results[0].shape[1:]), results[0].dtype)
  start = 0
  for own, number in zip(rows, found, strict=True):
    for batch in results:
      count = min(len(own), number)
      together[start : start + count] = batch[own[:count]]
      start, number = start + count, number - count
  return together
