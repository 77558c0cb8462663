"""Command line: `python -m essl_jax.main --config=configs/quickstart.py`."""

from collections.abc import Sequence
import os
import pathlib
import sys

from absl import app, flags, logging
import jax

from essl_jax import command_line, train
from essl_jax import config as config_lib
from essl_jax.errors import UsageError
from essl_jax.models import convolution


def _main(_: Sequence[str]) -> int:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  convolution.tune_cpu()
  config = config_lib.parse(command_line.CONFIG.value.to_dict())
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.path.join(os.path.expanduser("~"), ".cache", "essl_jax")
    jax.config.update("jax_compilation_cache_dir", cache)
  if command_line.DISTRIBUTED.value:
    try:
      jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
      raise UsageError(
        "--distributed found no cluster to join:"
        f" {command_line.one_line(error)}"
      ) from error
  workdir = command_line.WORKDIR.value or command_line.default_workdir()
  train.run(config, pathlib.Path(workdir))
  return 0


def run() -> None:
  """Runs the program; wrong input ends it with one line and code 2."""
  try:
    app.run(_main, flags_parser=command_line.parse)
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except FloatingPointError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  run()
