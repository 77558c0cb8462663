"""Which images no process could read, and evaluation therefore left out."""

from collections.abc import Iterable
import json
from typing import Any

from essl_jax.data import Source
from essl_jax.data.checks import SPLITS
from essl_jax.devices import parallel

_NAMED = 20


def describe(sources: Iterable[Source]) -> dict[str, dict[str, Any]]:
  """Collects the broken images of all processes; all of them have to call it.

  Args:
    sources: a set and parts of it, in each process the same ones.

  Returns:
    By split the `number` of images and the first twenty `names`.
  """
  sources = list(sources)
  mine = {
    split: [name for source in sources for name in source.broken[split]]
    for split in SPLITS
  }
  everybody = [json.loads(x) for x in parallel.gather_text(json.dumps(mine))]
  found = {}
  for split in SPLITS:
    # Several processes may have met the same one, in training.
    names = sorted({name for broken in everybody for name in broken[split]})
    found[split] = {"number": len(names), "names": names[:_NAMED]}
  return found


def tell(found: dict[str, dict[str, Any]]) -> str:
  """What `describe` found, in a few words; empty if nothing."""
  return ", ".join(
    f"{found[split]['number']:,} of {split}"
    for split in SPLITS
    if found[split]["number"]
  )
