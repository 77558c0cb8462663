"""Parts that all studies of image recipes share."""

from collections.abc import Mapping, Sequence
from typing import Any

import study

# Hand-written digits and a narrow network: seconds per cell.
_SMOKE = (
  "--config.epochs=1",
  "--config.optimizer.warmup_epochs=0",
  "--config.optimizer.warmup_from=0.0",
  "--config.batch_size=32",
  "--config.data.name=digits",
  "--config.data.train_split=train[:64]",
  "--config.data.test_split=test[:40]",
  "--config.data.image_size=None",
  "--config.data.resize_size=None",
  "--config.views.first.size=16",
  "--config.views.second.size=16",
  "--config.encoder.width=12",  # also fits the three heads of a ViT
  "--config.knn.k=(20,)",
  "--config.probe.protocol=fast",
  "--config.probe.batch_size=64",
  "--config.probe.epochs=2",
  "--config.probe.repetitions=1",
)
# All images of CIFAR-10; about an hour per cell on one CPU core.
_MEDIUM = ("--config.data.train_split=train", "--config.epochs=5")
SEEDS = {"full": (0, 1, 2), "small": (0, 1, 2), "smoke": (0,)}
COLUMNS = {
  "knn_top1": "kNN",
  "linear_top1": "linear probe",
  "recognised": "recognised",
  "knn_top1_untrained": "kNN untrained",
}
CIFAR_CAPTIONS = {
  "full": "CIFAR-10, ResNet-18, 800 epochs of batch 512; top-1 accuracy in %.",
  "small": "5,000 images of CIFAR-10, 4 epochs of batch 128, ResNet-18 of width"
  " 16; top-1 accuracy in % on all test images.",
  "smoke": "64 images of digits, one epoch: shows that it runs, nothing else.",
}


def cell(
  scale: str,
  row: str,
  stem: str,
  seed: int,
  variants: Sequence[str] = (),
  flags: Sequence[str] = (),
  label: str = "",
) -> study.Cell:
  """Makes a cell of an image recipe at a scale.

  Args:
    scale: the scale of the study.
    row: row of the table.
    stem: the recipe's file without its ending.
    seed: seed of the pre-training.
    variants: variants of the recipe, besides that of the scale.
    flags: flags besides those of the scale.
    label: as in `study.Cell`.

  Returns:
    The cell.
  """
  is_imagenet = stem.startswith("imagenet")
  quick = "tiny" if is_imagenet else "small"
  chosen = [*([] if scale == "full" else [quick]), *variants]
  recipe = stem + (f":{','.join(chosen)}" if chosen else "")
  if scale == "medium":
    flags = (*_MEDIUM, *flags)
  if scale != "smoke":
    return study.Cell(row, recipe, seed, tuple(flags), label)
  return study.Cell(row, recipe, seed, (*_SMOKE, *flags), label, data=None)


def width(scale: str) -> int:
  """Width of the hidden layers of the CIFAR-10 recipes' prediction head."""
  return 2048 if scale == "full" else 512


def read(
  results: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The figures and the protocol of a run on images with classes.

  Args:
    results: the content of `results.json`.

  Returns:
    The figures by name in percent, None if not measured; and the evaluations as
    the program reports them.
  """
  found = results["figures"]
  probe = found.get("linear_probe", {})
  transformation = found.get("transformation", {})
  figures = {
    "knn_top1_untrained": results["untrained"].get("knn_top1"),
    "knn_top1": found["knn"]["knn_top1"],
    "linear_top1": probe.get("linear_top1"),
    "recognised": transformation.get("transformation_accuracy"),
  }
  return figures, {"knn": found["knn"], "probe": probe}
