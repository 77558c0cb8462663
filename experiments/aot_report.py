"""Chips to compile for, what is to be compiled, and the tables of what was."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

DOCUMENTS = pathlib.Path(__file__).parents[1] / "docs"


@dataclasses.dataclass(frozen=True)
class Chip:
  """What its maker publishes of a chip.

  Attributes:
    hbm_bytes: memory.
    peak_flops: bfloat16 operations per second.
    bandwidth: bytes per second to and from that memory.

  Reference:
    cloud.google.com/tpu/docs, system architecture, v4 and v5e; NVIDIA's H200
    data sheet (dense products).
  """

  hbm_bytes: int
  peak_flops: float
  bandwidth: float


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips to compile for.

  Attributes:
    chip: their kind.
    name: the compiler's name of their arrangement.
    options: of the compiler; a v4 chip's two cores are one device, as JAX has
      them.
    platform: JAX's name of their kind.
  """

  chip: Chip
  name: str
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)
  platform: str = "tpu"


V5E = Chip(hbm_bytes=16 * 2**30, peak_flops=197e12, bandwidth=819e9)
V4 = Chip(hbm_bytes=32 * 2**30, peak_flops=275e12, bandwidth=1228e9)
H200 = Chip(hbm_bytes=141 * 10**9, peak_flops=989e12, bandwidth=4.8e12)
# Google counts chips in names of v5e slices, and cores (two a chip) in v4's.
TOPOLOGIES = {
  "v5e-16": Slice(V5E, "v5e:4x4"),
  "v5e-64": Slice(V5E, "v5e:8x8"),
  "v5e-256": Slice(V5E, "v5e:16x16"),
  "v4-32": Slice(V4, "v4:2x2x4", {"chip_config_name": "megacore"}),
  "v4-64": Slice(V4, "v4:2x4x4", {"chip_config_name": "megacore"}),
  "h200": Slice(H200, "1x1x1", platform="cuda"),
  "h200-8": Slice(H200, "1x1x8", platform="cuda"),
}

# Config, slice, setting: every recipe at its published batch, cheap ones first.
METHODS = ("simsiam", "simclr", "barlow_twins")
PLAN = [
  (f"configs/{data}_{method}.py", topology, "published")
  for data in ("cifar", "imagenet")
  for topology in ("v5e-16", "v4-32", "v5e-256")
  for method in METHODS
]
# What makes 4096 images fit where they do not as published.
PLAN += [
  (f"configs/imagenet_{method}.py", "v5e-16", "rematerialize")
  for method in ("simclr", "barlow_twins")
]
PLAN.append(("configs/imagenet_simclr.py", "v5e-16", "micro_batches=4"))
PLAN += [
  (f"configs/{data}_{method}.py", topology, "published")
  for data, topology in zip(
    ("cifar", "cifar", "imagenet"), ("h200", "h200-8", "h200-8"), strict=True
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
# The step whose parts are shown.
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


def write(results: pathlib.Path) -> None:
  """Writes the tables of all records into the documents of their platforms."""
  records = [json.loads(x.read_text()) for x in sorted(results.glob("*.json"))]
  for platform, name in (("tpu", "tpu.md"), ("cuda", "gpu.md")):
    document = DOCUMENTS / name
    text = _replace(document.read_text(), "table", table(records, platform))
    for record in records:
      if _case(record) == SHOWN and platform == "cuda" and "kernels" in record:
        text = _replace(text, "parts", parts_table(record))
    document.write_text(text)


def _replace(text: str, name: str, content: str) -> str:
  """Puts new content between two markers."""
  begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
  before, rest = text.split(begin)
  return f"{before}{begin}\n{content}{end}{rest.split(end)[1]}"


def table(records: list[dict[str, Any]], platform: str) -> str:
  """A Markdown table of a platform's records, then of what the plan lacks."""
  is_gpu = platform == "cuda"
  heads = _GPU_HEADS if is_gpu else _TPU_HEADS
  lines = [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|"]
  order = [x for x, slice_ in TOPOLOGIES.items() if slice_.platform == platform]
  key = lambda x: (order.index(x["topology"]), x["config"], x["setting"])
  found = [x for x in records if x["topology"] in order]
  lines += [_row(x, is_gpu=is_gpu) for x in sorted(found, key=key)]
  known = set(map(_case, found))
  for case in PLAN:
    if case not in known and case[1] in order:
      config, topology, setting = case
      recipe = _recipe(config)
      lines.append(f"| {recipe} | {topology} | {setting} | not compiled yet |")
  return "\n".join(lines) + "\n"


def parts_table(record: Mapping[str, Any]) -> str:
  """A Markdown table of what a GPU runs in one step, by part."""
  chip = TOPOLOGIES[record["topology"]].chip
  heads = "part | kernels | GB | ms at the full bandwidth | GFLOP"
  lines = [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|"]

  def row(name: str, sums: Mapping[str, float]) -> str:
    moved, flops = sums["bytes"], sums["flops"]
    cells = (
      *(name, f"{sums['count']:,}", f"{moved / 1e9:.2f}"),
      f"{1000 * moved / chip.bandwidth:.2f}",
      f"{flops / 1e9:.1f}" if flops else "–",
    )
    return f"| {' | '.join(cells)} |"

  for part in record["kernels"]["parts"]:
    name = ", ".join(filter(None, (part["part"], part["direction"])))
    lines.append(row(name, part))
  total = record["kernels"] | {
    "flops": sum(x["flops"] for x in record["kernels"]["parts"])
  }
  lines.append(row("**step**", total))
  return "\n".join(lines) + "\n"


def _case(record: Mapping[str, Any]) -> tuple[str, str, str]:
  return record["config"], record["topology"], record["setting"]


def _row(record: Mapping[str, Any], *, is_gpu: bool) -> str:
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
  return f"| {' | '.join(cells)} |"


def _recipe(config: str) -> str:
  path, _, variant = config.partition(":")
  return pathlib.Path(path).stem + (f":{variant}" if variant else "")


def _gib(size: float | None) -> str:
  if size is None:
    return "?"
  text = f"{size / 2**30:.2f}"
  return text.rstrip("0").rstrip(".")
