"""The recipes' steps as shapes, for chips that need not exist here."""

from collections.abc import Iterator
import contextlib
import dataclasses
import importlib.metadata
import pathlib
import re
from typing import Any

import aot_report
import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from essl_jax import config as config_lib
from essl_jax.config import flags
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.texts import first_line
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Source:
  """Stands in for a source of images, without any images.

  Attributes: as in `essl_jax.data.Source`.
  """

  num_classes: int
  image_shape: tuple[int, int, int]
  differs_in_size: bool
  examples: int

  def num_examples(self, split: str) -> int:
    """The size of the training split."""
    del split
    return self.examples

  def evaluation_batches(self, split: str, batch_size: int) -> Iterator[Any]:
    """None: there are no images."""
    del split, batch_size
    return iter(())


SOURCES = {
  "cifar10": Source(10, (32, 32, 3), False, 50_000),
  "imagenet2012": Source(1000, (224, 224, 3), True, 1_281_167),
}


@dataclasses.dataclass(frozen=True)
class Case:
  """One step to compile.

  Attributes:
    config: path of a recipe, and its variants after a colon.
    topology: a name in `aot_report.TOPOLOGIES`.
    setting: `published`, or what is changed to save memory:
      `micro_batches=2`, `rematerialize`, both with a comma.
  """

  config: str
  topology: str
  setting: str = "published"

  @property
  def name(self) -> str:
    """The name of the case's file."""
    path, _, variant = self.config.partition(":")
    parts = (pathlib.Path(path).stem, variant, self.topology, self.setting)
    return re.sub(r"[^\w.,-]", "", "__".join(filter(None, parts)))


def load_config(case: Case) -> config_lib.Config:
  """The recipe of a case in bfloat16, with its setting.

  Raises:
    UsageError: the file, variant or setting does not load.
  """
  overrides = ["--config.precision=bfloat16"]
  for part in filter(None, case.setting.split(",")):
    if re.fullmatch(r"micro_batches=\d+", part):
      overrides.append(f"--config.{part}")
    elif part == "rematerialize":
      overrides.append("--config.encoder.rematerialize=True")
    elif part != "published":
      raise UsageError(
        f"--variant={case.setting}: must be published, rematerialize,"
        " micro_batches=N, or the last two with a comma"
      )
  return flags.load(case.config, overrides)


# The packages that contain the compiler for a platform.
COMPILERS = {
  "tpu": ("libtpu",),
  "cuda": ("jax-cuda12-pjrt", "jax-cuda13-pjrt"),
}


def compiler(platform: str) -> str | None:
  """The package that compiles for a platform; None if none is installed."""
  for package in COMPILERS[platform]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      importlib.metadata.version(package)
      return package
  return None


def find(topology: str) -> aot_report.Slice:
  """Finds a slice by its name.

  Raises:
    UsageError: there is none.
  """
  known = aot_report.TOPOLOGIES
  if topology not in known:
    raise UsageError(
      f"unknown --topology={topology}; there are: {', '.join(known)}"
    )
  return known[topology]


def make_mesh(topology: str) -> jax.sharding.Mesh:
  """Makes a mesh of chips to compile for.

  Raises:
    UsageError: no compiler for them is installed, or it does not know the
      slice.
  """
  slice_ = find(topology)
  if compiler(slice_.platform) is None:
    kind = {"tpu": "TPU", "cuda": "GPU"}[slice_.platform]
    raise UsageError(
      f"no {kind} compiler is installed: pip install -e '.[{slice_.platform}]'"
    )
  try:
    described = topologies.get_topology_desc(
      platform=slice_.platform,
      topology_name=slice_.name,
      **slice_.options,
    )
  except Exception as error:
    raise UsageError(
      f"the compiler does not describe {topology}: {first_line(error)}"
    ) from error
  return parallel.make_mesh(described.devices)


def build(
  config: config_lib.Config, mesh: jax.sharding.Mesh
) -> experiment_lib.Experiment:
  """Builds the experiment of a recipe, without its images.

  Raises:
    UsageError: the shape of the recipe's images is unknown.
  """
  if config.data.name not in SOURCES:
    raise UsageError(
      f"config.data.name {config.data.name!r}: shapes are known only for"
      f" {', '.join(SOURCES)}"
    )
  source: Any = SOURCES[config.data.name]
  return experiment_lib.build(config, source, mesh)


def shapes(experiment: experiment_lib.Experiment) -> tuple[Any, Any]:
  """The shapes of the state and of a batch, with shardings on the mesh."""
  mesh, config = experiment.mesh, experiment.config

  def place(tree: Any, spec: P) -> Any:
    sharding = NamedSharding(mesh, spec)
    put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(put, tree)

  state = jax.eval_shape(
    lambda: step_lib.create_state(
      experiment.problem(), seed=config.seed, requests=experiment.requests
    )
  )
  n, crops = config.batch_size, experiment.crops
  images = {"image": experiment.source.image_shape}
  if crops is not None:
    images = {name: (x.size, x.size, 3) for name, x in crops.items()}
  batch = {
    name: jax.ShapeDtypeStruct((n, *shape), jnp.uint8)
    for name, shape in images.items()
  }
  batch["label"] = jax.ShapeDtypeStruct((n,), jnp.int32)
  return place(state, P()), place(batch, P(parallel.AXIS))
