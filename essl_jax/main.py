"""Command line: `python -m essl_jax.main --config=configs/quickstart.py`."""

import signal

_INTERRUPTS = __name__ == "__main__" and (
  signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _INTERRUPTS:  # Ctrl-C during the import of JAX prints no stack trace
  signal.signal(signal.SIGINT, signal.SIG_DFL)

import essl_jax.start  # noqa: F401

# isort: split
from collections.abc import Sequence
import traceback
from typing import Any

from absl import app, flags, logging
import jax

from essl_jax import command_line, errors, process_flags, streams
from essl_jax import config as config_lib
from essl_jax import run as run_lib
from essl_jax.devices import cpu, parallel, processes, signals
from essl_jax.loggers import several
from essl_jax.storage import claim, environment, places
from essl_jax.storage import workdir as workdir_lib

for module in (command_line, process_flags):  # --help shows them
  flags.adopt_module_key_flags(module)


def _main(arguments: Sequence[str]) -> int:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  cpu.tune()
  cpu.keep_compiled()
  said: list[str] = []
  config = command_line.load(arguments[1:], said.append)
  named = command_line.workdir()
  claim.check_store(named)
  workdir = places.locate(named)
  process_flags.join()
  parallel.all_devices()
  if jax.process_count() > 1:
    if not flags.FLAGS["verbosity"].present and jax.process_index() > 0:
      logging.set_verbosity(logging.ERROR)
    processes.check_equal(_facts(config, workdir))
  if jax.process_index() == 0:
    print("\n".join(said), end="\n" if said else "")
  told = command_line.told(arguments[1:])
  with processes.one_comparison() as agree:
    traced = command_line.profile()
    is_done = run_lib.run(config, workdir, agree, told, traced)
  return 0 if is_done else command_line.STOP_CODE.value


def _facts(config: config_lib.Config, workdir: places.Path) -> dict[str, Any]:
  """Facts that must be the same in all processes of a run."""
  facts = workdir_lib.dotted(config_lib.to_dict(config), "config.")
  facts |= {"--workdir": str(workdir)}
  facts |= {"--num_processes": process_flags.NUM_PROCESSES.value}
  return facts | workdir_lib.dotted(environment.describe(), "environment.")


def run() -> None:
  """Runs the program; reports any error but a bug in one line."""
  streams.prepare()
  with signals.ended_by_signals():
    try:
      try:
        app.run(_main, flags_parser=command_line.parse)
      finally:
        streams.flush()  # the program ends with SystemExit
    except SystemExit as end:
      if not several.left_behind():
        raise
      # A normal exit would wait for the threads of these loggers.
      code = end.code if isinstance(end.code, int) else bool(end.code)
      processes.end(int(code), "the program ends without its loggers")
    except KeyboardInterrupt:
      processes.end(130, signals.farewell("Ctrl-C"))
    except Exception as error:
      if loss := processes.describe_loss(error):
        processes.end(1, f"error: {loss}", with_others=False)
      told = errors.line_and_code(error)
      if told is None:
        bug = traceback.format_exc().rstrip()
        processes.end(1, bug, with_others=False)
      line, code = told
      is_alone = bool(errors.describe_trouble(error))
      processes.end(code, f"error: {line}", with_others=not is_alone)


if __name__ == "__main__":
  if _INTERRUPTS:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    run()
  finally:
    if _INTERRUPTS:  # no stack trace at exit either
      signal.signal(signal.SIGINT, signal.SIG_DFL)
