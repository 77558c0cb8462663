"""Command line: `python -m essl_jax.main --config=configs/quickstart.py`."""

from collections.abc import Sequence
import os
import pathlib
import sys
import traceback
from typing import Any

from absl import app, flags, logging
import jax

from essl_jax import command_line, process_flags
from essl_jax import config as config_lib
from essl_jax import run as run_lib
from essl_jax.config import flags as config_flags
from essl_jax.devices import cpu, processes
from essl_jax.errors import UsageError
from essl_jax.storage import environment
from essl_jax.storage import workdir as workdir_lib

for module in (command_line, process_flags):  # --help shows them
  flags.adopt_module_key_flags(module)


def _main(arguments: Sequence[str]) -> int:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  cpu.tune()
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.path.join(os.path.expanduser("~"), ".cache", "essl_jax")
    jax.config.update("jax_compilation_cache_dir", cache)
  config = config_flags.load(command_line.CONFIG.value or "", arguments[1:])
  workdir = workdir_lib.local_path(
    command_line.WORKDIR.value or command_line.default_workdir()
  )
  process_flags.join()
  if jax.process_count() > 1:
    if not flags.FLAGS["verbosity"].present and jax.process_index() > 0:
      logging.set_verbosity(logging.ERROR)
    processes.check_equal(_facts(config, workdir))
  with processes.one_comparison() as agree:
    run_lib.run(config, workdir, agree)
  return 0


def _facts(config: config_lib.Config, workdir: pathlib.Path) -> dict[str, Any]:
  """What must be the same in processes that compute one run."""
  facts = workdir_lib.dotted(config_lib.to_dict(config), "config.")
  facts |= {"--workdir": str(workdir)}
  facts |= {"--num_processes": process_flags.NUM_PROCESSES.value}
  return facts | workdir_lib.dotted(environment.describe(), "environment.")


def run() -> None:
  """Runs the program; wrong input ends it with one line and code 2."""
  try:
    app.run(_main, flags_parser=command_line.parse)
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    processes.end(2)
  except FloatingPointError as error:
    print(f"error: {error}", file=sys.stderr)
    processes.end(1)
  except KeyboardInterrupt:
    print(
      "stopped by Ctrl-C: the same command goes on from the last checkpoint,"
      " or begins again without one",
      file=sys.stderr,
    )
    processes.end(130)
  except Exception as error:
    if not jax.distributed.is_initialized():
      raise
    if loss := processes.describe_loss(error):
      print(f"error: {loss}", file=sys.stderr)
    else:
      traceback.print_exc()
    processes.end(1, with_others=False)


if __name__ == "__main__":
  run()
