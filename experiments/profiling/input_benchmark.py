r"""Times the host's input at ImageNet's scale; prints one JSON line.

  python experiments/profiling/input_benchmark.py
  python experiments/profiling/input_benchmark.py \
    --torch_python=OTHER_VENV/bin/python

The files are newly made JPEGs of 400 x 500 smooth random pixels. Three
RandomResizedCrops are taken from every image (two of 224 pixels, bicubic, 8 to
100% of the area; one of 96, bilinear, 5 to 14%), in batches of 64.

`images_per_second` and `cpu_ms_per_image` are those of this library, whose
flips and colours run on the accelerator. If `--torch_python` can import
torchvision, input_benchmark_torch.py times it in turn with ours, with as many
DataLoader workers as there are cores, as a PyTorch program would use it:
`torch_crops` makes the same crops with flips, as uint8 arrays, and
`torch_views` the normalised float views with colour, blur and solarize. The
ratios are ours to theirs, medians over the rounds.
"""

import essl_jax.start  # noqa: F401

# isort: split
import argparse
import atexit
import itertools
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import PIL
from PIL import Image

from essl_jax import arguments as arguments_lib
from essl_jax import augment, data
from essl_jax import config as config_lib
from essl_jax.errors import UsageError

HEIGHT, WIDTH, BATCH = 400, 500, 64
CROPS = {
  "first": augment.View(size=224, scale=(0.08, 1), interpolation="bicubic"),
  "second": augment.View(size=224, scale=(0.08, 1), interpolation="bicubic"),
  "third": augment.View(size=96, scale=(0.05, 0.14)),
}
# Cells along the longer side and their contrast: large shapes, fine texture.
OCTAVES = ((4, 54), (12, 30), (40, 18), (120, 9))
GRAIN = 4


def write_images(root: pathlib.Path, count: int) -> int:
  """Writes JPEGs of quality 90 in two classes; returns their bytes."""
  rng = np.random.default_rng(0)
  written = 0
  for number in range(count):
    pixels = 120 + GRAIN * rng.standard_normal((HEIGHT, WIDTH, 1))
    pixels = np.repeat(pixels, 3, axis=2)
    for cells, contrast in OCTAVES:
      shape = (max(2, cells * HEIGHT // WIDTH), cells)
      for channel in range(3):
        small = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
        large = small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels[..., channel] += contrast * np.asarray(large)
    path = root / "train" / f"class{number % 2}" / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(path, quality=90)
    written += path.stat().st_size
  return written


def measure(source: data.Source, batches: int) -> dict[str, float]:
  """Times all batches after the first."""
  stream = source.batches(batch_size=BATCH, seed=0, crops=CROPS)
  next(stream)
  start, before = time.perf_counter(), cpu_seconds()
  for batch in itertools.islice(stream, batches):
    assert batch["first"].shape == (BATCH, 224, 224, 3)
  images = batches * BATCH
  return {
    "images_per_second": images / (time.perf_counter() - start),
    "cpu_ms_per_image": 1e3 * (cpu_seconds() - before) / images,
  }


def cpu_seconds() -> float:
  """CPU seconds of all threads of this process."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


class TorchSide:
  """torchvision in a separate process."""

  def __init__(self, python: str, root: pathlib.Path, workers: int):
    script = pathlib.Path(__file__).with_name("input_benchmark_torch.py")
    self._python = python
    self._process = subprocess.Popen(
      [python, str(script), str(root / "train"), str(BATCH), str(workers)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      errors="replace",
    )
    self.versions = self._answer()

  def measure(self, kind: str, batches: int) -> dict[str, float] | None:
    """Times "crops" or "views"; None without torchvision."""
    if self.versions is None:
      return None
    assert self._process.stdin is not None
    print(kind, batches, file=self._process.stdin, flush=True)
    return self._answer()

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()

  def _answer(self) -> Any:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    try:
      return json.loads(line) if line else None
    except ValueError as error:
      self._process.kill()
      raise UsageError(
        f"--torch_python={self._python} prints {line.strip()[:80]!r} instead"
        " of a JSON line: give a Python"
      ) from error


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
  """The medians over the rounds."""
  return {
    name: round(statistics.median(one[name] for one in rounds), 3)
    for name in rounds[0]
  }


def ratios(
  ours: list[dict[str, float]], theirs: list[dict[str, float]]
) -> dict[str, float]:
  """How many times faster we are, by wall clock and by CPU time."""
  pairs = list(zip(ours, theirs, strict=True))
  wall = [a["images_per_second"] / b["images_per_second"] for a, b in pairs]
  cpu = [b["cpu_ms_per_image"] / a["cpu_ms_per_image"] for a, b in pairs]
  return {
    "times_faster": round(statistics.median(wall), 3),
    "times_faster_min": round(min(wall), 3),
    "times_faster_max": round(max(wall), 3),
    "times_less_cpu": round(statistics.median(cpu), 3),
  }


@arguments_lib.tells_wrong_input
def main() -> int:
  """Measures in turn and prints."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--files", type=int, default=256)
  parser.add_argument("--batches", type=int, default=12)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--torch_python", default=sys.executable)
  arguments = parser.parse_args()
  arguments_lib.check_least(arguments, BATCH, "files", most=10**6)
  arguments_lib.check_least(arguments, 1, "batches", "rounds")
  if shutil.which(arguments.torch_python) is None:
    raise UsageError(
      f"--torch_python={arguments.torch_python} cannot be run: give a Python"
    )
  cores = len(os.sched_getaffinity(0))
  folder = tempfile.mkdtemp()
  # Remove at exit, when the threads have finished reading.
  atexit.register(shutil.rmtree, folder)
  root = pathlib.Path(folder)
  written = write_images(root, arguments.files)
  source = data.open_source(
    config_lib.Data(
      name="folder", dir=folder, test_split="train", image_size=224
    )
  )
  torch = TorchSide(arguments.torch_python, root, cores)
  rounds: dict[str, list] = {"ours": [], "crops": [], "views": []}
  for _ in range(arguments.rounds):
    rounds["ours"].append(measure(source, arguments.batches))
    # Views are several times slower.
    for kind, part in (("crops", 1), ("views", 4)):
      batches = max(2, arguments.batches // part)
      rounds[kind].append(torch.measure(kind, batches))
  torch.close()
  line: dict[str, Any] = {
    **summary(rounds["ours"]),
    "cores": cores,
    "batch": BATCH,
    "rounds": arguments.rounds,
    "jpeg_kilobytes": round(written / arguments.files / 1e3, 1),
    "pillow": PIL.__version__,
    "load_average": round(os.getloadavg()[0], 1),
    "torch": torch.versions,
  }
  for kind in ("crops", "views"):
    if torch.versions is not None:
      line[f"torch_{kind}"] = summary(rounds[kind]) | ratios(
        rounds["ours"], rounds[kind]
      )
  print(json.dumps(line))
  return 0


if __name__ == "__main__":
  sys.exit(main())
