"""Times one E-SSL training step of the CIFAR-10 recipe; prints one JSON line.

  python experiments/benchmark.py --method=simsiam --batch=64 --steps=5
  python experiments/benchmark.py --batch=512 --steps=50 --precision=bfloat16
  python experiments/benchmark.py --batch=512 --steps=50 --images=cifar10.npz

Without `--images` the views are random arrays already on the device: the step
alone. `--augment` adds the augmentation of three views inside the step, and
`--images` (an .npz with the arrays that `data.name` accepts) the whole path:
images held on the device, gathered, augmented, trained on.

`temporary_bytes` is what the step needs beside its arguments, by XLA's own
count; --micro_batches and --rematerialize trade time for it.

The line also says how long compilation took; a second start with the same
arguments reads the compilation cache instead.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from essl_jax import config as config_lib
from essl_jax import cpu, environment, methods, parallel, transformations
from essl_jax import experiment as experiment_lib
from essl_jax import views as views_lib
from essl_jax.data import ArraySource, load_npz


def make_config(arguments: argparse.Namespace) -> config_lib.Config:
  """The CIFAR-10 recipe at the size to be measured."""
  simsiam = arguments.method == "simsiam"
  own_fields: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.5},
    "simclr_nt_xent": {"temperature": 0.1},
    "simsiam": {"predictor_hidden": 512},
    "barlow_twins": {
      "redundancy_weight": 0.0051,
      "projector": {"widths": (2048, 2048, 2048), "last_norm": "none"},
    },
  }
  return config_lib.parse(
    {
      "method": arguments.method,
      "batch_size": arguments.batch,
      "precision": arguments.precision,
      "micro_batches": arguments.micro_batches,
      "data": {"name": arguments.images or "digits"},
      "views": {
        "first": {"size": 32},
        "second": {"size": 32},
        "third": {"size": 16},
      },
      "model": {
        "width": arguments.width,
        "rematerialize": arguments.rematerialize,
      },
      "equivariance": {
        "weight": arguments.rotation_weight,
        "last_hidden_relu": not simsiam,
      },
      **own_fields[arguments.method],
    }
  )


def random_views(config: config_lib.Config) -> dict[str, np.ndarray]:
  """Views as the step would make them, but of noise."""
  random = np.random.default_rng(0)
  n, weight = config.batch_size, config.equivariance.weight
  shape = lambda view: (n, view.size, view.size, 3)
  draw = lambda view: random.standard_normal(shape(view), np.float32)
  views = {"first": draw(config.views.first)}
  views["second"] = draw(config.views.second)
  if weight:
    turned, labels = transformations.four_fold_rotation(
      draw(config.views.third)
    )
    views |= {"transformed": np.asarray(turned), "labels": np.asarray(labels)}
  return views


def make_source(config: config_lib.Config) -> ArraySource:
  """The given images, or noise of CIFAR-10's shape."""
  if config.data.name != "digits":
    return load_npz(config.data.name)
  random = np.random.default_rng(0)
  shape = (max(config.batch_size, 1024), 32, 32, 3)
  images = random.integers(0, 256, shape, np.uint8)
  labels = np.arange(len(images)) % 10
  return ArraySource(images, labels, images, labels)


def build(
  arguments: argparse.Namespace,
) -> tuple[experiment_lib.Experiment, Callable, Iterator[Any]]:
  """The experiment, its compiled step, and what feeds it."""
  config = make_config(arguments)
  experiment = experiment_lib.build(config, make_source(config))
  if arguments.augment or arguments.images:
    return experiment, experiment.make_step(), experiment.batches(0)
  views = parallel.shard(random_views(config), experiment.mesh)
  given = lambda state, batch: views_lib.Views(**batch)
  step = experiment.make_step(prepare=given)
  return experiment, step, iter(lambda: views, None)


def augmentation_seconds(
  experiment: experiment_lib.Experiment, repetitions: int = 10
) -> float:
  """Median time of making the three views of a batch, alone."""
  n = experiment.config.batch_size
  images = jnp.asarray(experiment.source.train_images[:n])
  make = jax.jit(views_lib.make_views(experiment.config))
  state = jax.device_get(experiment.create_state())
  state = dataclasses.replace(state, params={}, opt_state={})
  seconds = []
  for _ in range(repetitions + 1):
    start = time.perf_counter()
    jax.block_until_ready(make(state, {"image": images}))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:])


def main() -> None:
  """Parses the command line, times steps, prints the line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--method", choices=methods.METHODS, default="simsiam")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--width", type=int, default=64)
  parser.add_argument("--micro_batches", type=int, default=1)
  parser.add_argument("--rematerialize", action="store_true")
  parser.add_argument("--rotation-weight", type=float, default=0.4)
  parser.add_argument("--precision", default="float32")
  parser.add_argument("--augment", action="store_true")
  parser.add_argument("--images", help="an .npz: measures with the input too")
  parser.add_argument("--cache", help="folder of the compilation cache")
  arguments = parser.parse_args()
  cpu.tune()  # as the program does
  if arguments.cache:
    jax.config.update("jax_compilation_cache_dir", arguments.cache)

  experiment, step, batches = build(arguments)
  state = experiment.create_state()
  start = time.perf_counter()
  batch = next(batches)
  step = step.lower(state, batch).compile()
  state, metrics = step(state, batch)
  jax.block_until_ready(metrics)
  compile_seconds = time.perf_counter() - start
  for _ in range(1 if jax.default_backend() == "cpu" else 10):
    state, metrics = step(state, next(batches))
  jax.block_until_ready(state)

  seconds = []
  for _ in range(arguments.steps):
    start = time.perf_counter()
    state, metrics = step(state, next(batches))
    jax.block_until_ready(state)
    seconds.append(time.perf_counter() - start)
  mean, median = statistics.fmean(seconds), statistics.median(seconds)
  views = augmentation_seconds(experiment)
  machine = environment.describe()
  rate = arguments.batch / mean
  print(
    json.dumps(
      {
        "program": "essl_jax",
        "version": f"jax {machine['jax']}",
        "device": machine["device_kind"],
        "git_commit": machine["git_commit"],
        "method": arguments.method,
        "batch": arguments.batch,
        "width": arguments.width,
        "precision": arguments.precision,
        "micro_batches": arguments.micro_batches,
        "rematerialize": arguments.rematerialize,
        "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        "pipeline": bool(arguments.images),
        "augment": bool(arguments.augment or arguments.images),
        "first_step_seconds": compile_seconds,
        "median_step_seconds": median,
        "mean_step_seconds": mean,
        "source_images_per_second": rate,
        "encoder_images_per_second": rate * experiment.encodings_per_image,
        "augmentation_seconds": views,
        "augmentation_share_of_step": views / median,
      }
    )
  )


if __name__ == "__main__":
  main()
