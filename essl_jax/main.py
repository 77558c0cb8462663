"""Command line: `python -m essl_jax.main --config=configs/quickstart.py`."""

from collections.abc import Sequence
import os
import pathlib
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from essl_jax import config as config_lib
from essl_jax import train
from essl_jax.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A config file, with variants after a colon."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where everything is written; runs/<config> by default."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Joins the processes of a TPU pod or a cluster."
)


def _parse_flags(arguments: Sequence[str]) -> list[str]:
  """Parses the command line; what is wrong with it becomes a UsageError."""
  try:
    rest = flags.FLAGS(list(arguments))
    if _CONFIG.value is not None:
      _CONFIG.value.to_dict()  # a file that did not load tells only here
  except UsageError:
    raise
  except (flags.Error, AttributeError, KeyError, OSError, TypeError) as error:
    text = " ".join(str(error).split())
    raise UsageError(text) from error
  if _CONFIG.value is None:
    raise UsageError("--config=FILE is missing; see configs/ for the recipes")
  if rest[1:]:
    raise UsageError(f"not a flag: {rest[1]}; fields are --config.NAME=VALUE")
  return rest


def _default_workdir() -> str:
  """`runs/` and the config's name with its variants."""
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  path, _, variants = name.partition(":")
  suffix = "".join(f"-{part}" for part in variants.split(",") if part)
  return os.path.join("runs", pathlib.Path(path).stem + suffix)


def _main(_: Sequence[str]) -> int:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  config = config_lib.parse(_CONFIG.value.to_dict())
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.path.join(os.path.expanduser("~"), ".cache", "essl_jax")
    jax.config.update("jax_compilation_cache_dir", cache)
  if _DISTRIBUTED.value:
    jax.distributed.initialize()
  train.run(config, pathlib.Path(_WORKDIR.value or _default_workdir()))
  return 0


def run() -> None:
  """Runs the program; wrong input ends it with one line and code 2."""
  try:
    app.run(_main, flags_parser=_parse_flags)
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  except FloatingPointError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  run()
