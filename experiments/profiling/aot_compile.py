r"""Compiles the recipes' train steps for TPUs and GPUs, on a machine without.

  pip install -e '.[tpu]'   # or '.[cuda]', or both
  python experiments/profiling/aot_compile.py
  python experiments/profiling/aot_compile.py --topology=v4-32 \
    --config=configs/imagenet_simclr.py \
    --variant=rematerialize --variant=micro_batches=2
  python experiments/profiling/aot_compile.py --topology=h200 --topology=h200-8
  python experiments/profiling/aot_compile.py --trace_only  # only the bound
  python experiments/profiling/aot_compile.py --report_only  # only the table

The compilers come with libtpu and with JAX's CUDA plugin, and need no device.
The compiled step is the one that `essl_jax.main` runs: the recipe's global
batch of uint8 images (crops from the host for ImageNet), augmentation, both
passes, collectives and update, in bfloat16. Parameters and images are only
shapes; no data set is needed. Without arguments, all cases are compiled for
which a compiler is installed.

Every case writes a JSON file under `experiments/results/aot_compile/`, and all
of them together fill the tables in `docs/tpu.md` and `docs/gpu.md`, which
explain the columns. A case whose program and compiler have not changed is not
compiled again without `--force`. If steps do not fit, the exit code is 1, with
a line for each.
"""

import argparse
from collections.abc import Sequence
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to query
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor to share
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # GPUs are described, not queried

import essl_jax.start  # noqa: E402, F401

# isort: split
import aot_cases  # noqa: E402
import aot_report  # noqa: E402
import hlo_collectives  # noqa: E402
import hlo_kernels  # noqa: E402
import hlo_text  # noqa: E402
import jax  # noqa: E402
import jaxpr_flops  # noqa: E402

from essl_jax import arguments as arguments_lib  # noqa: E402
from essl_jax.errors import UsageError  # noqa: E402
from essl_jax.storage import environment  # noqa: E402
from essl_jax.training import experiment as experiment_lib  # noqa: E402

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "aot_compile"
PACKAGES = ("jax", "jaxlib", "flax", "optax")


def describe(
  case: aot_cases.Case, experiment: experiment_lib.Experiment, matrix_flops: int
) -> dict[str, Any]:
  """The part of a case's record that needs no compilation."""
  config, chips = experiment.config, experiment.mesh.size
  chip = aot_cases.find(case.topology).chip
  seconds = matrix_flops / chip.peak_flops
  return {
    "config": case.config,
    "topology": case.topology,
    "setting": case.setting,
    "chips": chips,
    "device_kind": experiment.mesh.devices.flat[0].device_kind,
    "batch_size": config.batch_size,
    "images_per_chip": config.batch_size // chips,
    "epochs": config.epochs,
    "steps": experiment.total_steps,
    "matrix_flops": matrix_flops,
    "bound": {
      "step_seconds": seconds,
      "images_per_second": config.batch_size / seconds,
      "hours": experiment.total_steps * seconds / 3600,
    },
  }


def measure(
  compiled: Any, text: str, slice_: aot_report.Slice
) -> dict[str, Any]:
  """The compiler's figures of a step: memory, arithmetic, collectives."""
  memory = compiled.memory_analysis()
  parts = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "program": memory.generated_code_size_in_bytes,
    "aliased": memory.alias_size_in_bytes,
  }
  total = sum(parts.values()) - 2 * parts["aliased"]
  found = {
    "fits": total <= slice_.chip.hbm_bytes,
    "hbm_bytes": total,
    "memory": parts,
    "collectives": hlo_collectives.collectives(text),
    "overlaps": hlo_collectives.overlaps(text),
    "rearrangements": hlo_text.rearrangements(text),
  }
  if slice_.platform == "cuda":  # its compiler counts only with a GPU
    return found | {"kernels": hlo_kernels.summarise(text)}
  costs = compiled.cost_analysis()
  return found | {
    "xla_flops": costs["flops"],
    "xla_bytes_accessed": costs["bytes accessed"],
  }


def out_of_memory(error: Exception) -> dict[str, Any]:
  """The record of a step that is too large; re-raises other errors."""
  message = str(error)
  if "RESOURCE_EXHAUSTED" not in message:
    raise error
  record: dict[str, Any] = {"fits": False, "compiler": message[:400]}
  if found := re.search(r"(?:Used |\()([\d.]+)([MG])\b", message):
    unit = {"M": 2**20, "G": 2**30}[found[2]]
    record["hbm_bytes"] = int(float(found[1]) * unit)
  return record


def compile_case(
  case: aot_cases.Case,
  *,
  force: bool = False,
  trace_only: bool = False,
  text: str | None = None,
) -> dict[str, Any]:
  """Compiles a case, or reads the record of an earlier run.

  Args:
    case: the case to compile.
    force: whether to compile even if there is a record.
    trace_only: whether to count only the arithmetic of unknown cases, without
      compiling.
    text: folder for the compiled program, as HLO text.

  Returns:
    The case's record, which is also written to its file.

  Raises:
    UsageError: the case cannot be built.
  """
  config = aot_cases.load_config(case)
  experiment = aot_cases.build(config, aot_cases.make_mesh(case.topology))
  traced = experiment.make_step().trace(*aot_cases.shapes(experiment))
  lowered = traced.lower()
  slice_ = aot_cases.find(case.topology)
  packages = (*PACKAGES, aot_cases.compiler(slice_.platform))
  versions = {name: importlib.metadata.version(name) for name in packages}
  # All input of the compiler; for TPUs, only the program by default.
  given = (
    lowered.as_text()
    + slice_.options.get("target_config", "")
    + os.environ.get("XLA_FLAGS", "")
  )
  program = hashlib.sha256(given.encode()).hexdigest()
  path = RESULTS / f"{case.name}.json"
  if path.exists() and not (force or text):
    old = aot_report.read(path)
    before = old.get("program"), old.get("versions")
    is_same = before == (program, versions)
    if is_same and (trace_only or "fits" in old):
      return old
  record = describe(case, experiment, jaxpr_flops.matrix_flops(traced.jaxpr))
  record |= {
    "program": program,
    "versions": versions,
    "git_commit": environment.describe()["git_commit"],
    "hardware": f"none: compiled for {experiment.mesh.size} chips on a machine"
    f" of {os.cpu_count()} CPU cores",
  }
  if not trace_only:
    record |= compile_lowered(lowered, case, text)
  RESULTS.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record, indent=1) + "\n")
  return record


def compile_lowered(
  lowered: Any, case: aot_cases.Case, text: str | None
) -> dict[str, Any]:
  """The part of a case's record that needs compilation."""
  start = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    found = out_of_memory(error)
  else:
    program = compiled.as_text()
    found = measure(compiled, program, aot_cases.find(case.topology))
    if text:
      pathlib.Path(text, f"{case.name}.hlo").write_text(program)
  return found | {"compile_seconds": round(time.monotonic() - start, 1)}


def cases(arguments: argparse.Namespace) -> list[aot_cases.Case]:
  """The cases of a command line.

  Without `--topology`, they cover slices that have a compiler, or else all.
  Without `--config` and `--variant`, they are a slice's cases of the plan, or
  all recipes if it has none.
  """
  plan = [aot_cases.Case(*row) for row in aot_report.PLAN]
  planned = dict.fromkeys(case.topology for case in plan)
  has_compiler = lambda name: aot_cases.compiler(aot_cases.find(name).platform)
  slices = arguments.topology or list(filter(has_compiler, planned)) or planned
  configs = arguments.config or dict.fromkeys(case.config for case in plan)
  settings = arguments.variant or ["published"]
  found = []
  for name in slices:
    all_of_slice = [
      aot_cases.Case(config, name, setting)
      for config in configs
      for setting in settings
    ]
    is_free = not (arguments.config or arguments.variant)
    found += [x for x in plan if is_free and x.topology == name] or all_of_slice
  return found


@arguments_lib.tells_wrong_input
def main(argv: Sequence[str] | None = None) -> int:
  """Compiles the cases; returns the exit code."""
  parser = arguments_lib.Parser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", nargs="+", action="extend")
  parser.add_argument("--topology", nargs="+", action="extend")
  parser.add_argument("--variant", nargs="+", action="extend")
  parser.add_argument("--force", action="store_true")
  parser.add_argument("--text", help="folder for the compiled programs' text")
  parser.add_argument("--trace_only", action="store_true")
  parser.add_argument("--report_only", action="store_true")
  arguments = parser.parse_args(argv)
  if arguments.text and not pathlib.Path(arguments.text).is_dir():
    raise UsageError(f"--text={arguments.text}: there is no such folder")
  too_large = []
  for case in [] if arguments.report_only else cases(arguments):
    record = compile_case(
      case,
      force=arguments.force,
      trace_only=arguments.trace_only,
      text=arguments.text,
    )
    line = aot_report.summary(case.name, record)
    print(line, flush=True)
    if not record.get("fits", True):
      too_large.append(line)
    aot_report.write(RESULTS)
  aot_report.write(RESULTS)
  for line in too_large:
    print(f"FAIL {line}", file=sys.stderr)
  return 1 if too_large else 0


if __name__ == "__main__":
  sys.exit(main())
