"""Shared fixtures: eight simulated devices, golden numbers, strict JAX."""

import os
import tempfile

import xla_flags

# Before the first import of jax: both are read when its backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " " + xla_flags.make(devices=8)
)
# Two cores and eight devices dead-lock in collectives with fewer threads.
os.environ["NPROC"] = "32"
# LAPACK's own threads, in every worker, are many times slower than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Of this process and those that it starts. Small programs are kept too: tests
# do thousands of operations one by one, each of which compiles in 20 to 50 ms.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  os.path.join(tempfile.gettempdir(), "essl_jax_test_cache"),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import functools  # noqa: E402
import gc  # noqa: E402
import pathlib  # noqa: E402
import signal  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes millions of small objects, and few of them are garbage.
gc.set_threshold(20_000, 20, 20)

# Shells let background jobs ignore Ctrl-C, and so would all programs of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# Minutes of compiling and tracing, longest first; the rest fills the gaps.
LONG_FILES = (
  "test_trajectories",
  "test_photonics_regression",
  "test_extending",
  "test_weights",
  "test_processes",
  "test_main",
  "test_step",
  "test_main_input",
  "test_models_golden",
  "test_config_fields",
)

GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Begins with the long files, that no worker waits for one at the end."""
  rank = {name: i for i, name in enumerate(LONG_FILES)}
  items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def golden() -> Any:
  """Loads a golden file by its name without the ending."""
  loaded: dict[str, dict[str, np.ndarray]] = {}

  def load(name: str) -> dict[str, np.ndarray]:
    if name not in loaded:
      with np.load(GOLDEN / f"{name}.npz") as file:
        loaded[name] = {key: file[key] for key in file.files}
    return loaded[name]

  return load


@pytest.fixture(scope="session")
def tiny_config() -> Any:
  """Makes configs of one block that train in seconds on 16-pixel images."""
  from essl_jax import config as config_lib

  def make(method: str = "simsiam", **fields: Any) -> config_lib.Config:
    view = {"size": 16}
    raw: dict[str, Any] = {
      "method": method,
      "epochs": 2,
      "batch_size": 16,
      "log_every": 1,
      "checkpoint_every_epochs": 1,
      "data": {"name": "digits"},
      "views": {"first": view, "second": view, "third": {"size": 8}},
      "encoder": {"width": 8, "stem": "cifar", "blocks": (1,)},
      "projector": {"widths": (32, 32)},
      "equivariance": {"hidden_widths": (32, 32)},
      "optimizer": {"warmup_epochs": 1},
      "knn": {"k": 20},
      "probe": {"protocol": "fast", "epochs": 2, "repetitions": 2},
    }
    needs: dict[str, Any] = {
      "simclr": {"temperature": 0.5},
      "simclr_nt_xent": {"temperature": 0.1},
      "simsiam": {"predictor_hidden": 8},
      "barlow_twins": {
        "redundancy_weight": 0.0051,
        "online_classifier": True,
        "projector": {"widths": (32, 32), "last_norm": "none"},
      },
      # Its loss is the same whatever is added to all projections: a last bias
      # would have the gradient 0, but for rounding.
      "vicreg": {
        "projector": {"widths": (32, 16), "last_norm": "none", "bias": False}
      },
      "moco_v3": {
        "predictor_hidden": 16,
        "projector": {"widths": (32, 16)},
      },
      "dino": {
        "projector": {"widths": (32, 16), "last_norm": "none", "bias": True},
        "prototypes": 24,
      },
      "byol": {
        "predictor_hidden": 16,
        "projector": {"widths": (32, 16), "last_norm": "none", "bias": True},
      },
    }
    if "prediction" not in fields.get("terms", ["prediction"]):
      del raw["equivariance"], raw["views"]["third"]
    raw |= needs.get(method, {})
    if method == "none":
      del raw["projector"]
    for name, value in fields.items():
      is_group = isinstance(value, dict) and isinstance(raw.get(name), dict)
      if is_group and (name != "encoder" or "name" not in value):
        raw[name] = raw[name] | value
      else:
        raw[name] = value
    return config_lib.parse(raw)

  return make


@pytest.fixture
def built_once(monkeypatch: Any) -> None:
  """Runs of one config share the experiment, whose programs are traced once."""
  from essl_jax.training import experiment as experiment_lib

  build = functools.cache(experiment_lib.build)
  monkeypatch.setattr(experiment_lib, "build", build)


@pytest.fixture
def short_resnet(monkeypatch: Any) -> None:
  """Measured E-SimSiam steps are of two blocks: they compile in seconds."""
  import step_cases

  fields = {
    "encoder": {"blocks": (1, 1)},
    "projector": {"widths": (32, 32)},
    "predictor_hidden": 8,
    "equivariance": {"hidden_widths": (32,), "weight": 0.4},
  }
  monkeypatch.setitem(step_cases.OWN_FIELDS, "simsiam", fields)


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: Any) -> pathlib.Path:
  """A recipe that trains a tiny E-SimCLR on digits."""
  import program_helpers

  path = tmp_path_factory.mktemp("configs") / "tiny.py"
  path.write_text(program_helpers.TINY)
  return path
