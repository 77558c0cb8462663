"""The training step that the programs here measure.

It is that of a method's CIFAR-10 recipe with a ResNet-18, at any size, or with
`--config` that of any recipe.

Without `--images`, the views are random arrays already on the device, so only
the step is measured. `--augment` adds the augmentation of three views inside
the step, and `--images` (an .npz with the arrays that `data.name` accepts) the
whole path: images in device memory, gathered, augmented, trained on. With
`--steps-per-dispatch=N`, N steps are one program, as in training on
accelerators with images in device memory.
"""

import argparse
from collections.abc import Callable, Iterator
import itertools
from typing import Any

import jax
import numpy as np

from essl_jax import arguments as arguments_lib
from essl_jax import config as config_lib
from essl_jax.config import flags, parts
from essl_jax.data import ArraySource, load_npz
from essl_jax.devices import cpu, parallel
from essl_jax.errors import UsageError
from essl_jax.training import dispatch
from essl_jax.training import experiment as experiment_lib
from essl_jax.training.views import Views

# Fields of the step that differ from a method's defaults.
OWN_FIELDS: dict[str, dict[str, Any]] = {
  "simclr_nt_xent": {"temperature": 0.1},
  "barlow_twins": {
    "projector": {"widths": (2048, 2048, 2048), "last_norm": "none"}
  },
}
# Options that a recipe determines itself.
_OF_RECIPE = ("method", "width", "size", "rotation_weight")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options that describe the step."""
  add = parser.add_argument
  add("--config", help="a recipe and its variants, as for essl_jax.main")
  add("--method", choices=parts.METHOD.names(), default="simsiam")
  add("--batch", type=int, default=64)
  add("--width", type=int, default=64)
  add("--size", type=int, default=32, help="side of views 1 and 2, twice 3's")
  add("--micro_batches", type=int, default=1)
  add("--rematerialize", action="store_true")
  add("--rotation-weight", type=float, default=0.4)
  add("--precision", default="float32")
  add("--augment", action="store_true")
  add("--images", help="an .npz file: measures the input too")
  add("--examples", type=int, help="number of noise images, with --augment")
  add("--steps-per-dispatch", type=int, default=1, help="steps of one program")
  add("--devices", type=int, help="number of devices; by default all")
  add("--cache", help="folder of the compilation cache")


def defaults(**chosen: Any) -> argparse.Namespace:
  """The default options of `add_arguments`, with the chosen ones replaced."""
  parser = arguments_lib.Parser()
  add_arguments(parser)
  return argparse.Namespace(**vars(parser.parse_args([])) | chosen)


def start(arguments: argparse.Namespace) -> None:
  """Prepares JAX as the program does; call it before any computation."""
  cpu.tune()
  if arguments.cache:
    jax.config.update("jax_compilation_cache_dir", arguments.cache)


def make_config(arguments: argparse.Namespace) -> config_lib.Config:
  """The config of the step to measure.

  Raises:
    UsageError: the recipe does not load.
  """
  if arguments.config:
    return _load(arguments)
  view = {"size": arguments.size}
  return config_lib.parse(
    {
      "method": arguments.method,
      "batch_size": arguments.batch,
      "precision": arguments.precision,
      "micro_batches": arguments.micro_batches,
      "data": {"name": arguments.images or "digits"},
      "views": {
        "first": view,
        "second": view,
        "third": {"size": arguments.size // 2},
      },
      "encoder": {
        "stem": "cifar",
        "width": arguments.width,
        "rematerialize": arguments.rematerialize,
      },
      "equivariance": {
        "weight": arguments.rotation_weight,
        "last_hidden_relu": arguments.method != "simsiam",
      },
      **OWN_FIELDS.get(arguments.method, {}),
    }
  )


def _load(arguments: argparse.Namespace) -> config_lib.Config:
  """A recipe with the batch, precision and images of the options."""
  changed = {
    "batch_size": arguments.batch,
    "precision": arguments.precision,
    "micro_batches": arguments.micro_batches,
    "data.name": arguments.images or "digits",
  }
  if arguments.rematerialize:
    changed["encoder.rematerialize"] = True
  return flags.load(
    arguments.config, [f"--config.{name}={x}" for name, x in changed.items()]
  )


def facts(config: config_lib.Config) -> dict[str, Any]:
  """The description of the step in a record."""
  prediction = getattr(config, "equivariance", None)  # other terms may stand
  return {
    "method": config.method,
    "rotation_weight": prediction.weight if prediction else 0.0,
    "batch": config.batch_size,
    "encoder": config.encoder.name,
    "width": config.encoder.width,
    "size": config.views.first.size,
    "precision": config.precision,
    "micro_batches": config.micro_batches,
    "rematerialize": config.encoder.rematerialize,
  }


def random_views(experiment: experiment_lib.Experiment) -> Views:
  """Views of noise, in the form in which the step makes them."""
  random, n = np.random.default_rng(0), experiment.config.batch_size
  keys = jax.random.split(jax.random.key(0), n)
  images, targets = {}, {}
  for request in experiment.requests:
    name, size = request.name, request.view.size
    images[name] = random.standard_normal((n, size, size, 3), np.float32)
    if request.transform is not None:
      images[name], targets[name] = request.transform(images[name], keys)
  return jax.device_get(Views(images, targets))


def make_source(
  config: config_lib.Config, examples: int | None = None
) -> ArraySource:
  """The given images, or noise of the views' shape."""
  if config.data.name != "digits":
    return load_npz(config.data.name)
  random = np.random.default_rng(0)
  count = max(config.batch_size, 1024) if examples is None else examples
  side = config.views.first.size
  images = random.integers(0, 256, (count, side, side, 3), np.uint8)
  labels = np.arange(count) % 10
  return ArraySource(images, labels, images[:10], labels[:10])


def check(arguments: argparse.Namespace) -> None:
  """Raises UsageError if options contradict each other."""
  if arguments.config:
    known = defaults()
    for name in _OF_RECIPE:
      if getattr(arguments, name) != getattr(known, name):
        option = name.replace("_", "-")
        raise UsageError(
          f"--config={arguments.config} determines the step: leave out"
          f" --{option}"
        )
  examples, steps = arguments.examples, arguments.steps_per_dispatch
  has_input = arguments.augment or arguments.images
  if examples is not None:
    if arguments.images or not has_input:
      raise UsageError(
        f"--examples={examples} is a number of noise images, which needs"
        " --augment and no --images"
      )
    if examples < arguments.batch:
      raise UsageError(
        f"--examples={examples} must be at least --batch={arguments.batch}"
      )
  arguments_lib.check_least(arguments, 1, "steps_per_dispatch", most=10**6)
  if steps > 1 and not has_input:
    raise UsageError(
      f"--steps-per-dispatch={steps} needs images in device memory: add"
      " --augment or --images"
    )


def build(
  arguments: argparse.Namespace,
) -> tuple[experiment_lib.Experiment, Callable, Iterator[tuple[Any, ...]]]:
  """Builds the experiment, its step to compile, and its batches.

  Args:
    arguments: options of `add_arguments`.

  Returns:
    The experiment, the step (or several as one program), and an iterator of
    tuples: the step is called with the state and the entries of a tuple.

  Raises:
    UsageError: there is no such step, or there are fewer devices.
  """
  check(arguments)
  there, wanted = parallel.all_devices(), arguments.devices
  if wanted is not None and not 1 <= wanted <= len(there):
    raise UsageError(f"--devices={wanted}: there are {len(there)} devices")
  config = make_config(arguments)
  experiment = experiment_lib.build(
    config,
    make_source(config, arguments.examples),
    parallel.make_mesh(there[:wanted]),
  )
  if arguments.steps_per_dispatch > 1:
    steps = dispatch.map_steps(experiment)
    take = dispatch.make_take(experiment, 0)
    batches = map(take, itertools.repeat(arguments.steps_per_dispatch))
    return experiment, steps, batches
  if arguments.augment or arguments.images:
    batches = ((batch,) for batch in experiment.batches(0))
    return experiment, experiment.make_step(), batches
  views = parallel.shard(random_views(experiment), experiment.mesh)
  step = experiment.make_step(prepare=lambda state, views: views)
  return experiment, step, itertools.repeat((views,))
