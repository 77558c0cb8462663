"""Which changes to E-SimCLR on CIFAR-10 save time? One change at a time.

  python experiments/fast_study.py --data-dir=/data/tfds --jobs=2
  python experiments/fast_study.py --scale=full --data-dir=/data/tfds

All cells but two have the same budget of arithmetic: as many passes of the
encoder over 32 x 32 pixels (smaller images count by their area) as the base
recipe, so cheaper changes get more epochs. The time may differ and is measured
together with the accuracy. The base recipe with half and twice the budget gives
the curve to compare the other cells with. The last row is
configs/cifar_fast.py, which combines several of these changes; the row before
it omits two of them.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import sys
from typing import Any

import image_study
import study
import study_report
import study_runner

from essl_jax import config as config_lib
from essl_jax.training import resolution

BASELINE = "E-SimCLR, short schedule"
LESS, MORE = "half of the budget", "twice the budget"
FAST = "configs/cifar_fast.py"
WARM = f"{FAST} at the base's temperature and rate"
STAGES = ((0.0, 0.5), (0.4, 0.75), (0.7, 1.0))
# Epochs of the base; at `full`, the arithmetic of cifar_fast.py's 400 epochs.
_EPOCHS = {"full": 171, "small": 4, "smoke": 2}
_BATCH = {"full": 512, "small": 128, "smoke": 32}
_SETTINGS = {
  "full": (
    "--config.precision=bfloat16",
    "--config.data.on_device=True",
    "--config.knn.every_epochs=20",
    "--config.checkpoint_every_epochs=100",
    "--config.probe.protocol=fast",
  ),
  "small": ("--config.knn.every_epochs=0",),
  "smoke": ("--config.knn.every_epochs=0",),
}


@dataclasses.dataclass(frozen=True)
class Change:
  """A row of the table.

  Attributes:
    label: label for file names.
    flags: flags of the program.
    stem: name of the recipe's file without its ending.
    budget: budget as a fraction of that of the other cells.
    copies: number of copies of view 3 that the encoder sees.
    third: size of view 3.
    stages: stages of growing sizes.
  """

  label: str
  flags: tuple[str, ...] = ()
  stem: str = "cifar_simclr"
  budget: float = 1.0
  copies: int = 4
  third: int = 16
  stages: tuple[tuple[float, float], ...] = ()

  def passes(self, epochs: int) -> float:
    """Passes over 32 x 32 pixels for one image of the data, in all epochs."""
    views = (32, 2), (self.third, self.copies)
    return _passes(views, self.stages, epochs)


def _passes(
  views: Sequence[tuple[int, int]],
  stages: Sequence[tuple[float, float]],
  epochs: int,
) -> float:
  """Passes for views by full size and number, summed over all epochs."""
  begins = [(resolution.first_epoch(x, epochs), y) for x, y in stages]
  begins = begins or [(0, 1.0)]
  ends = [epoch for epoch, _ in begins[1:]] + [epochs]
  total = 0.0
  for (begin, fraction), end in zip(begins, ends, strict=True):
    area = lambda x, y=fraction: (resolution.scaled_size(x, y) / 32) ** 2
    total += (end - begin) * sum(n * area(size) for size, n in views)
  return total


def changes(scale: str) -> dict[str, Change]:
  """The rows of the table, by title.

  Args:
    scale: the scale of the study.

  Returns:
    The changes; the first is the unchanged base.
  """
  one = "--config.equivariance.all_elements=False"
  third = "--config.views.third.size"
  rate = "--config.optimizer.learning_rate"
  cold = "--config.temperature=0.2"
  fast = Change("", stem="cifar_fast", copies=1, stages=STAGES)
  half_batch = f"--config.batch_size={_BATCH[scale] // 2}"
  return {
    BASELINE: Change("base"),
    LESS: Change("half", budget=0.5),
    MORE: Change("twice", budget=2.0),
    "SSL alone": Change("ssl", ("--config.equivariance.weight=0.0",), copies=0),
    "E-SimSiam": Change("", stem="cifar_simsiam"),
    "half of the batch": Change("batch", (half_batch,)),
    "half of the learning rate": Change("rate_half", (f"{rate}=0.03",)),
    "twice the learning rate": Change("rate_twice", (f"{rate}=0.12",)),
    "growing sizes": Change(
      "grows",
      (f"--config.views.resolution={STAGES}".replace(" ", ""),),
      stages=STAGES,
    ),
    "one random element an image": Change("one", (one,), copies=1),
    "one element of a view 3 of 32 pixels": Change(
      "one32", (one, f"{third}=32"), copies=1, third=32
    ),
    "view 3 of 8 pixels": Change("third8", (f"{third}=8",), third=8),
    "temperature 0.2": Change("cold", (cold,)),
    "temperature 0.1": Change("colder", ("--config.temperature=0.1",)),
    "temperature 0.2, twice the learning rate": Change(
      "cold_rate_twice", (cold, f"{rate}=0.12")
    ),
    "crops of 40% or more": Change("mild", _views("scale=(0.4,1.0)")),
    "twice the colour jitter": Change(
      "jitter", _views("jitter=(0.8,0.8,0.8,0.2)")
    ),
    WARM: dataclasses.replace(
      fast, label="warm", flags=("--config.temperature=0.5", f"{rate}=0.06")
    ),
    FAST: fast,
  }


def _views(change: str) -> tuple[str, ...]:
  """Flags that change both views of SSL."""
  return tuple(f"--config.views.{x}.{change}" for x in ("first", "second"))


def epochs(change: Change, scale: str) -> int:
  """Number of epochs that comes nearest to the budget."""
  base = _EPOCHS[scale]
  budget = change.budget * Change("").passes(base)
  return min(range(1, 4 * base), key=lambda n: abs(change.passes(n) - budget))


def cells(scale: str, seeds: Sequence[int]) -> list[study.Cell]:
  """A cell for every change."""
  return [
    image_study.cell(
      scale,
      row,
      change.stem,
      seed,
      flags=(
        *_SETTINGS[scale],
        *change.flags,
        f"--config.epochs={epochs(change, scale)}",
      ),
      label=change.label,
    )
    for seed in seeds
    for row, change in changes(scale).items()
  ]


def passes_per_image(config: config_lib.Config) -> float:
  """Passes over 32 x 32 pixels for one image, the mean over all epochs.

  Args:
    config: config of a run that predicts four-fold rotations or nothing.

  Returns:
    Passes of the encoder, counting smaller images by their area.
  """
  copies = 4 if config.equivariance.all_elements else 1
  copies = copies if config.equivariance.weight else 0
  views = config.views
  seen = (views.first.size, 1), (views.second.size, 1)
  seen = *seen, (views.third.size, copies)
  return _passes(seen, views.resolution, config.epochs) / config.epochs


def read(
  results: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Like `image_study.read`, with the cost of the training.

  Args:
    results: the content of `results.json`.

  Returns:
    The figures, with passes (in thousands) and seconds of training without
    compilation, evaluation and saving; and the protocol.
  """
  figures, protocol = image_study.read(results)
  config = config_lib.parse(results["config"])
  images = results["training"]["steps"] * config.batch_size
  speed = results["training"]["source_images_per_second"]
  figures["passes"] = images * passes_per_image(config) / 1e3
  figures["seconds"] = images / speed if speed else None
  return figures, protocol


def draw(figure: Any, records: list[dict[str, Any]]) -> None:
  """Draws accuracy over arithmetic and over seconds, averaged over seeds."""
  axes = figure.subplots(1, 2, sharey=True)
  titles = ("passes over 32 × 32 pixels (thousands)", "seconds of training")
  for ax, key, title in zip(axes, ("passes", "seconds"), titles, strict=True):
    curve = [_point(records, row, key) for row in (LESS, BASELINE, MORE)]
    there = [point for point in curve if point]
    xs, ys = [x for x, _ in there], [y for _, y in there]
    ax.plot(xs, ys, "k-o", label=f"{BASELINE}, ½, 1, 2 ×")
    others = [x for x in changes("full") if x not in (LESS, BASELINE, MORE)]
    for i, row in enumerate(others):
      if point := _point(records, row, key):
        ax.plot(*point, f"C{i % 10}{'os^'[i // 10]}", label=row)
    ax.set_xlabel(title)
    ax.grid(alpha=0.4)
  axes[0].set_ylabel("kNN (%)")
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside right center", fontsize="small")


def _point(
  records: list[dict[str, Any]], row: str, key: str
) -> tuple[float, float] | None:
  """Mean cost and mean accuracy of a row, if it has both."""
  costs = study_report.known(records, row, key)
  found = study_report.known(records, row, "knn_top1")
  if not costs or not found:
    return None
  mean = lambda values: study_report.mean_and_deviation(values)[0]
  return mean(costs), mean(found)


STUDY = study.Study(
  name="fast",
  title="E-SimCLR on CIFAR-10: what saves time",
  cells=cells,
  columns={
    "knn_top1": "kNN",
    "linear_top1": "linear probe",
    "passes": "passes (thousands)",
    "seconds": "seconds of training",
  },
  read=read,
  draw=draw,
  captions={
    "full": "CIFAR-10, ResNet-18, bfloat16, the arithmetic of 171 epochs of"
    " E-SimCLR, batch 512; top-1 accuracy in %.",
    "small": "5,000 images of CIFAR-10, about the arithmetic of 4 epochs of"
    " E-SimCLR (whole epochs: see the passes), batch 128, ResNet-18 of width"
    " 16; top-1 accuracy in % on all test images. SSL alone has the learning"
    " rate of E-SimCLR.",
    "smoke": "64 images of digits: shows that it runs, nothing else.",
  },
  seeds={"full": (0,), "small": (0,), "smoke": (0,)},
  quoted=(
    study.Quoted(
      FAST,
      "kNN 91.4, 90 after 1 h 39",
      "dkobak/simclr-cifar10: SimCLR, ResNet-18, 1000 epochs at 11.9 s on an"
      " A100; of another program and recipe.",
    ),
  ),
  baseline=BASELINE,
)

if __name__ == "__main__":
  sys.exit(study_runner.main(STUDY, __doc__))
