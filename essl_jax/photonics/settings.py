"""Settings of a generated data set, as stored in its manifest."""

from collections.abc import Mapping
from typing import Any

from essl_jax.errors import UsageError
from essl_jax.photonics import bands, cells

FLAGS = ("kind", "seed", "labelled", "test", "validation", "unlabelled")
"""Settings that have a flag of `generate`; the program sets the others."""


def make(
  kind: str,
  seed: int,
  labelled: int,
  unlabelled: int,
  test: int | None = None,
  validation: int | None = None,
) -> dict[str, Any]:
  """Makes the settings of a data set.

  Args:
    kind: kind of cells.
    seed: seed of the data set.
    labelled: number of training and test cells together.
    unlabelled: number of cells without bands.
    test: how many of the labelled cells are for test; two fifths if None, as in
      the paper.
    validation: number of further labelled cells for validation; a tenth as many
      as `labelled` if None.

  Returns:
    The manifest's settings; `counts` is the number of cells by split.

  Raises:
    UsageError: a number is below 0, all are 0, or a tenth of the labelled cells
      is less than 1.
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
    raise UsageError(
      "there are no cells to make: give --labelled, --unlabelled or"
      " --validation"
    )
  if validation is None and 0 < labelled < 10:
    raise UsageError(
      f"--labelled={labelled} leaves no cells to validate on (a tenth of it):"
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
  """Returns name, old and new value of each setting that differs.

  Counts have the names of their flags: `labelled` is training and test cells.
  If it differs, `test` and `validation`, which depend on it, are left out.
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
