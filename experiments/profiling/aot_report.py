"""Chips to compile for, the cases to compile, and tables of their records."""

from collections.abc import Iterable, Mapping
import dataclasses
import pathlib
from typing import Any

from essl_jax.errors import UsageError
from essl_jax.storage import json_files

DOCUMENTS = pathlib.Path(__file__).parents[2] / "docs"


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of a chip.

  Attributes:
    hbm_bytes: bytes of memory.
    peak_flops: bfloat16 operations per second.
    bandwidth: bytes per second to and from that memory.

  Reference:
    cloud.google.com/tpu/docs, system architecture, v4, v5e and v6e; NVIDIA's
    H200 data sheet (dense products).
  """

  hbm_bytes: int
  peak_flops: float
  bandwidth: float


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips to compile for.

  Attributes:
    chip: kind of the chips.
    name: the compiler's name of their arrangement; GPUs have none.
    options: options of the compiler. They make a v4 chip's two cores one
      device, as in JAX, and describe GPUs.
    platform: JAX's name of their kind.
  """

  chip: Chip
  name: str
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)
  platform: str = "tpu"


V5E = Chip(hbm_bytes=16 * 2**30, peak_flops=197e12, bandwidth=819e9)
V6E = Chip(hbm_bytes=32 * 2**30, peak_flops=918e12, bandwidth=1638e9)
V4 = Chip(hbm_bytes=32 * 2**30, peak_flops=275e12, bandwidth=1228e9)
H200 = Chip(hbm_bytes=141 * 10**9, peak_flops=989e12, bandwidth=4.8e12)
# The compiler's description of a GPU that is not present: an H200's limits from
# the CUDA programming guide (compute capability 9.0) and NVIDIA's data sheet.
_H200_TARGET = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 141000000000
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H200"
"""
_H200_OPTIONS = {"target_config": _H200_TARGET}
# Google's names count chips for v5e and v6e, and cores (two per chip) for v4.
TOPOLOGIES = {
  "v5e-16": Slice(V5E, "v5e:4x4"),
  "v5e-64": Slice(V5E, "v5e:8x8"),
  "v5e-256": Slice(V5E, "v5e:16x16"),
  "v6e-16": Slice(V6E, "v6e:4x4"),
  "v4-32": Slice(V4, "v4:2x2x4", {"chip_config_name": "megacore"}),
  "v4-64": Slice(V4, "v4:2x4x4", {"chip_config_name": "megacore"}),
  "h200": Slice(H200, "", _H200_OPTIONS | {"topology": "1x1x1"}, "cuda"),
  "h200-8": Slice(H200, "", _H200_OPTIONS | {"topology": "1x1x8"}, "cuda"),
}

# Config, slice, setting: every recipe at its published batch, cheap ones first.
METHODS = ("simsiam", "simclr", "barlow_twins")
PLAN = [
  (f"configs/{data}_{method}.py", topology, "published")
  for data in ("cifar", "imagenet")
  for topology in ("v5e-16", "v4-32", "v5e-256")
  for method in METHODS
]
# Settings that save memory for 4096 images.
PLAN += [
  (f"configs/imagenet_{method}.py", "v5e-16", "rematerialize")
  for method in ("simclr", "barlow_twins")
]
PLAN.append(("configs/imagenet_simclr.py", "v5e-16", "micro_batches=4"))
PLAN += [
  (f"configs/{data}_{method}.py", topology, "published")
  for data, topology in (
    ("cifar", "h200"),
    ("cifar", "h200-8"),
    ("imagenet", "h200-8"),
  )
  for method in METHODS
]
_TPU_HEADS = (
  "recipe | slice | setting | images a chip | HBM, GiB | collectives | MiB"
  " | copies | MiB | traffic, ms | TFLOP | bound, ms | images/s | hours"
)
_GPU_HEADS = (
  "recipe | GPUs | setting | images a GPU | HBM, GiB | collectives | MiB"
  " | overlapped | MiB | copies | MiB | kernels | traffic, ms | TFLOP"
  " | bound, ms | images/s | hours"
)
# Entries of every record.
_NEEDED = {"topology", "config", "setting", "bound"}
# The step whose parts are in the table.
SHOWN = ("configs/cifar_simsiam.py", "h200", "published")


def summary(name: str, record: Mapping[str, Any]) -> str:
  """One line of a case: whether it fits, and the bound."""
  limit = TOPOLOGIES[record["topology"]].chip.hbm_bytes
  bound = f"at least {1000 * record['bound']['step_seconds']:.1f} ms a step"
  if "fits" not in record:
    return f"{name}: not compiled; {bound} (bound)"
  return (
    f"{name}: {'fits' if record['fits'] else 'does not fit'},"
    f" {_gib(record.get('hbm_bytes'))} of {_gib(limit)} GiB a chip; {bound}"
    f" (bound); compiled in {record['compile_seconds']:.0f} s"
  )


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads the record of a case; UsageError if its file is damaged."""
  try:
    found = json_files.read_object(path)
    if missing := _NEEDED - found.keys():
      raise ValueError(f"it lacks {', '.join(sorted(missing))}")
  except ValueError as error:
    raise UsageError(
      f"{path} is damaged ({error}): restore it, or remove it to compile again"
    ) from error
  return found


def write(results: pathlib.Path) -> None:
  """Writes the tables of all records into the pages of their platforms."""
  records = [read(path) for path in sorted(results.glob("*.json"))]
  _replace(DOCUMENTS / "tpu.md", "table", table(records, "tpu"))
  _replace(DOCUMENTS / "gpu.md", "table", table(records, "cuda"))
  for record in records:
    if _case(record) == SHOWN and "kernels" in record:
      _replace(DOCUMENTS / "gpu.md", "parts", parts_table(record))


def _replace(document: pathlib.Path, name: str, content: str) -> None:
  """Replaces the content between two markers."""
  begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
  before, rest = document.read_text("utf-8").split(begin)
  after = rest.split(end)[1]
  text = f"{before}{begin}\n{content}{end}{after}"
  document.write_text(text, "utf-8")


def _markdown(heads: str, rows: Iterable[Iterable[str]]) -> str:
  lines = [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|"]
  lines += [f"| {' | '.join(cells)} |" for cells in rows]
  return "\n".join(lines) + "\n"


def table(records: list[dict[str, Any]], platform: str) -> str:
  """A Markdown table of a platform's records, then of missing cases."""
  is_gpu = platform == "cuda"
  order = [x for x, slice_ in TOPOLOGIES.items() if slice_.platform == platform]
  key = lambda x: (order.index(x["topology"]), x["config"], x["setting"])
  found = [x for x in records if x["topology"] in order]
  rows = [_row(x, is_gpu=is_gpu) for x in sorted(found, key=key)]
  known = set(map(_case, found))
  for case in PLAN:
    if case not in known and case[1] in order:
      config, topology, setting = case
      rows.append([_recipe(config), topology, setting, "not compiled yet"])
  return _markdown(_GPU_HEADS if is_gpu else _TPU_HEADS, rows)


def parts_table(record: Mapping[str, Any]) -> str:
  """A Markdown table of the operations of a GPU in one step, by part."""
  chip = TOPOLOGIES[record["topology"]].chip
  kernels = record["kernels"]
  flops = sum(part["flops"] for part in kernels["parts"])
  whole = kernels | {"part": "**step**", "direction": "", "flops": flops}
  heads = "part | kernels | GB | ms at the full bandwidth | GFLOP"
  rows = [
    (
      ", ".join(filter(None, (part["part"], part["direction"]))),
      f"{part['count']:,}",
      f"{part['bytes'] / 1e9:.2f}",
      f"{1000 * part['bytes'] / chip.bandwidth:.2f}",
      f"{part['flops'] / 1e9:.1f}" if part["flops"] else "–",
    )
    for part in (*kernels["parts"], whole)
  ]
  return _markdown(heads, rows)


def _case(record: Mapping[str, Any]) -> tuple[str, str, str]:
  return record["config"], record["topology"], record["setting"]


def _row(record: Mapping[str, Any], *, is_gpu: bool) -> list[str]:
  chip, bound = TOPOLOGIES[record["topology"]].chip, record["bound"]
  memory = "not compiled yet"
  if "fits" in record:
    memory = f"{_gib(record.get('hbm_bytes'))} of {_gib(chip.hbm_bytes)}"
    memory = memory if record["fits"] else f"**{memory}: too large**"
  cells = [
    _recipe(record["config"]),
    record["topology"],
    record["setting"].replace(",", ", "),
    str(record["images_per_chip"]),
    memory,
  ]
  if "collectives" in record:
    exchanged = record["collectives"].values()
    moved = [record["rearrangements"][x] for x in ("copy", "transpose")]
    count = lambda rows: str(sum(x["count"] for x in rows))
    mib = lambda rows: f"{sum(x['bytes'] for x in rows) / 2**20:.0f}"
    cells += [count(exchanged), mib(exchanged)]
    if is_gpu:
      cells += [count([record["overlaps"]]), mib([record["overlaps"]])]
    cells += [count(moved), mib(moved)]
    cells += [f"{record['kernels']['count']:,}"] if is_gpu else []
    traffic = (
      record["kernels"]["bytes"] if is_gpu else record["xla_bytes_accessed"]
    )
    cells.append(f"{1000 * traffic / chip.bandwidth:.1f}")
  else:
    cells += ["–"] * (8 if is_gpu else 5)
  cells += [
    f"{record['matrix_flops'] / 1e12:.2f}",
    f"{1000 * bound['step_seconds']:.1f}",
    f"{bound['images_per_second']:,.0f}",
    f"{bound['hours']:.2g} for {record['epochs']} epochs",
  ]
  return cells


def _recipe(config: str) -> str:
  path, _, variant = config.partition(":")
  return pathlib.Path(path).stem + (f":{variant}" if variant else "")


def _gib(size: float | None) -> str:
  if size is None:
    return "?"
  text = f"{size / 2**30:.2f}"
  return text.rstrip("0").rstrip(".")
