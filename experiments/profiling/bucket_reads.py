r"""Times reading an image folder of a bucket; prints one JSON line.

  python experiments/profiling/bucket_reads.py --bucket=gs://BUCKET/FOLDER

The program writes JPEGs of 96 x 96 random pixels to a temporary folder and to a
bucket, and removes them at the end. On a local server (STORAGE_EMULATOR_HOST;
README.md starts one) it also creates the bucket. Every image is then read,
decoded and cut to 64 pixels once: from the disk, from the bucket without a
cache (`bucket`), while the cache is filled (`first`), and from the cache
(`cached`). Each round times all four in turn; the images per second are medians
of the rounds, with their range.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from essl_jax import arguments as arguments_lib
from essl_jax import config as config_lib
from essl_jax import data
from essl_jax.storage import cache, places

SIDE, CUT, BATCH = 96, 64, 50
GIB = 1.0


def write_images(root: pathlib.Path, count: int) -> float:
  """Writes JPEGs in two classes; returns their mean size in kilobytes."""
  rng, written = np.random.default_rng(0), 0
  for number in range(count):
    path = root / "train" / f"class{number % 2}" / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=75)
    written += path.stat().st_size
  return written / count / 1e3


def seconds(folder: str, gib: float) -> float:
  """Seconds to read every image once, after the folder was listed."""
  source = data.open_source(
    config_lib.Data(
      "folder",
      dir=folder,
      test_split="train",
      image_size=CUT,
      cache_gib=gib,
    )
  )
  begun, found = time.perf_counter(), 0
  for batch in source.evaluation_batches("train", BATCH):
    found += len(batch["label"])
  taken = time.perf_counter() - begun
  assert found == source.num_examples("train")
  return taken


def measure(local: str, remote: str) -> dict[str, float]:
  """Measures one round."""
  shutil.rmtree(cache.location(), ignore_errors=True)
  return {
    "disk": seconds(local, 0),
    "bucket": seconds(remote, 0),
    "first": seconds(remote, GIB),
    "cached": seconds(remote, GIB),
  }


@arguments_lib.tells_wrong_input
def main() -> int:
  """Measures and prints."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--bucket", required=True, help="gs://BUCKET/FOLDER")
  parser.add_argument("--files", type=int, default=500)
  parser.add_argument("--rounds", type=int, default=5)
  arguments = parser.parse_args()
  arguments_lib.check_least(arguments, BATCH, "files")
  arguments_lib.check_least(arguments, 1, "rounds")
  load = os.getloadavg()[0]
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")
    root = pathlib.Path(folder) / "images"
    kilobytes = write_images(root, arguments.files)
    remote = places.locate(arguments.bucket, "--bucket") / "bucket_reads"
    client = places.client(remote)
    if "STORAGE_EMULATOR_HOST" in os.environ:
      bucket = str(remote).split("/", 3)[2]
      client.mkdir(bucket, create_parents=True)
    client.put(f"{root}/", f"{remote}/", recursive=True)
    stack.callback(places.remove_folder, remote)
    rounds = [measure(str(root), str(remote)) for _ in range(arguments.rounds)]
  line = {
    "images_per_second": {
      name: [
        round(arguments.files / kind(x[name] for x in rounds))
        for kind in (statistics.median, max, min)
      ]
      for name in rounds[0]
    },
    "files": arguments.files,
    "kilobytes": round(kilobytes, 1),
    "rounds": arguments.rounds,
    "cores": len(os.sched_getaffinity(0)),
    "load_average": round(load, 1),
  }
  print(json.dumps(line))
  return 0


if __name__ == "__main__":
  sys.exit(main())
