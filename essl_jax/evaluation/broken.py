"""Counts and names the images that could not be read."""

from collections.abc import Iterable, Mapping, Sequence
import json
from typing import Any

from essl_jax.data import Source
from essl_jax.data.checks import SPLITS
from essl_jax.devices import parallel

TITLE = "images that cannot be read, left out"
_NAMED = 20  # most names to list for a split


def left_out(sources: Iterable[Source]) -> dict[str, dict[str, Any]]:
  """Collects the broken images of a set; all processes must call it.

  Args:
    sources: a set and parts of it, the same ones in each process.

  Returns:
    The result of `of_all_processes`.
  """
  sources = list(sources)
  return of_all_processes(
    {
      split: [name for source in sources for name in source.broken[split]]
      for split in SPLITS
    }
  )


def of_all_processes(
  mine: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
  """Collects broken images; all processes must call it.

  Args:
    mine: by split, the names that this process could not read.

  Returns:
    By split, the `number` of images and the first twenty `names`.
  """
  mine = {split: list(names) for split, names in mine.items()}
  everybody = [json.loads(x) for x in parallel.gather_text(json.dumps(mine))]
  found = {}
  for split in mine:
    # In training, several processes may have read the same image.
    names = sorted({name for broken in everybody for name in broken[split]})
    found[split] = {"number": len(names), "names": names[:_NAMED]}
  return found


def describe(broken: Mapping[str, Mapping[str, Any]]) -> str:
  """How many images of each split are broken; empty if none is."""
  return ", ".join(
    f"{found['number']:,} of {split}"
    for split, found in broken.items()
    if found["number"]
  )
