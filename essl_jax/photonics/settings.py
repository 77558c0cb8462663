"""Settings of a generated data set, as its manifest stores them."""

from collections.abc import Mapping
from typing import Any

from essl_jax.errors import UsageError
from essl_jax.photonics import bands, cells

FLAGS = ("kind", "seed", "labelled", "test", "validation", "unlabelled")
"""Settings that a flag of `generate` gives; the others are the program's."""


def make(
  kind: str,
  seed: int,
  labelled: int,
  unlabelled: int,
  test: int | None = None,
  validation: int | None = None,
) -> dict[str, Any]:
  """The settings of a data set.

  Args:
    kind: of cells.
    seed: of the data set.
    labelled: training and test cells together.
    unlabelled: cells without bands.
    test: of those labelled; two fifths if None, as in the paper.
    validation: beside those labelled; a tenth as many if None.

  Returns:
    What the manifest keeps; `counts` is how many cells each split has.

  Raises:
    UsageError: a number is below 0, nothing is asked for, or a tenth of the
      labelled cells is none.
  """
  given = {
    "seed": seed,
    "labelled": labelled,
    "unlabelled": unlabelled,
    "test": test or 0,
    "validation": validation or 0,
  }
  for name, number in given.items():
    if number < 0:
      raise UsageError(f"--{name}={number} must be 0 or more")
  if given["test"] > labelled:
    raise UsageError(f"--test={test} is more than --labelled={labelled}")
  if not labelled + unlabelled + given["validation"]:
    raise UsageError("no cells: give --labelled, --unlabelled or --validation")
  if validation is None and 0 < labelled < 10:
    raise UsageError(
      f"--labelled={labelled} leaves no cells to validate on, a tenth of it:"
      " give 10 or more, or --validation=COUNT"
    )
  test = labelled * 2 // 5 if test is None else test
  validation = labelled // 10 if validation is None else validation
  return {
    "kind": kind,
    "seed": seed,
    "counts": {
      "unlabelled": unlabelled,
      "train": labelled - test,
      "validation": validation,
      "test": test,
    },
    "generator": cells.VERSION,
    "plane_waves": bands.PLANE_WAVES,
    "num_bands": bands.NUM_BANDS,
  }


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
  """Names, old and new values of what differs between two settings.

  Counts are named as they are asked for: `labelled` is training and test cells,
  and where it differs, `test` and `validation`, parts of it, are left out.
  """
  old, new = _flat(old), _flat(new)
  found = {
    name: (old.get(name), new.get(name))
    for name in new | old
    if old.get(name) != new.get(name)
  }
  apart = ("test", "validation") if "labelled" in found else ()
  return [(name, *x) for name, x in found.items() if name not in apart]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
  counts = dict.fromkeys(cells.SPLITS, 0) | settings.get("counts", {})
  flat = {name: x for name, x in settings.items() if name != "counts"}
  labelled = counts.pop("train") + counts["test"]
  return flat | {"labelled": labelled} | counts
