"""Command line: `python -m essl_jax.main --config=configs/quickstart.py`."""

from collections.abc import Sequence
import contextlib
import os
import sys

from absl import app, flags, logging
import jax

import essl_jax
from essl_jax import cluster as cluster_lib
from essl_jax import command_line
from essl_jax import config as config_lib
from essl_jax import run as run_lib
from essl_jax.config import flags as config_flags
from essl_jax.devices import cpu
from essl_jax.errors import UsageError
from essl_jax.storage import workdir as workdir_lib

flags.adopt_module_key_flags(command_line)  # --help shows them


def _main(arguments: Sequence[str]) -> int:
  place = command_line.place()
  if not flags.FLAGS["verbosity"].present:
    is_quiet = place is not None and place.process_id > 0
    logging.set_verbosity(logging.ERROR if is_quiet else logging.WARNING)
  cpu.tune()
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.path.join(os.path.expanduser("~"), ".cache", "essl_jax")
    jax.config.update("jax_compilation_cache_dir", cache)
  with contextlib.ExitStack() as stack:
    cluster = None
    if place is not None:
      timeout = command_line.JOIN_TIMEOUT.value
      cluster = stack.enter_context(cluster_lib.Cluster(place, timeout))
    config = config_flags.load(command_line.CONFIG.value or "", arguments[1:])
    workdir = workdir_lib.local_path(
      command_line.WORKDIR.value or command_line.default_workdir()
    )
    if cluster is not None:
      _agree(cluster, config, str(workdir))
      cluster.start_jax()
    agree = cluster.check_equal if cluster is not None else lambda _: None
    run_lib.run(config, workdir, agree)
  return 0


def _agree(
  cluster: cluster_lib.Cluster, config: config_lib.Config, workdir: str
) -> None:
  """Refuses processes that would not compute one run, before they begin."""
  fields = workdir_lib.dotted(config_lib.to_dict(config), "config.")
  fields |= {"--workdir": workdir}
  fields |= {"version of essl_jax": essl_jax.__version__}
  fields |= {"version of jax": jax.__version__}
  cluster.check_equal(fields)
  workdir_lib.check_shared(workdir, cluster)


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
  except KeyboardInterrupt:
    print(
      "stopped by Ctrl-C: the same command goes on from the last checkpoint",
      file=sys.stderr,
    )
    sys.exit(130)


if __name__ == "__main__":
  run()
