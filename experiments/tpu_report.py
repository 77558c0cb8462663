"""TPU slices, what is to be compiled for them, and the table of what was."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "tpu.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclasses.dataclass(frozen=True)
class Chip:
  """What Google publishes of a chip.

  Attributes:
    hbm_bytes: memory.
    peak_flops: bfloat16 operations per second.
    bandwidth: bytes per second to and from that memory.

  Reference:
    cloud.google.com/tpu/docs, system architecture, v4 and v5e.
  """

  hbm_bytes: int
  peak_flops: float
  bandwidth: float


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips to compile for.

  Attributes:
    chip: their kind.
    name: libtpu's name of their arrangement.
    options: of libtpu; a v4 chip's two cores are one device, as JAX has them.
  """

  chip: Chip
  name: str
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)


V5E = Chip(hbm_bytes=16 * 2**30, peak_flops=197e12, bandwidth=819e9)
V4 = Chip(hbm_bytes=32 * 2**30, peak_flops=275e12, bandwidth=1228e9)
# Google counts chips in names of v5e slices, and cores (two a chip) in v4's.
TOPOLOGIES = {
  "v5e-16": Slice(V5E, "v5e:4x4"),
  "v5e-64": Slice(V5E, "v5e:8x8"),
  "v5e-256": Slice(V5E, "v5e:16x16"),
  "v4-32": Slice(V4, "v4:2x2x4", {"chip_config_name": "megacore"}),
  "v4-64": Slice(V4, "v4:2x4x4", {"chip_config_name": "megacore"}),
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
  """Writes the table of all records between the markers of `DOCUMENT`."""
  records = [json.loads(x.read_text()) for x in sorted(results.glob("*.json"))]
  text = DOCUMENT.read_text()
  before, rest = text.split(BEGIN)
  after = rest.split(END)[1]
  DOCUMENT.write_text(f"{before}{BEGIN}\n{table(records)}{END}{after}")


def table(records: list[dict[str, Any]]) -> str:
  """A Markdown table of the records, then of what the plan lacks."""
  heads = (
    "recipe | slice | setting | images a chip | HBM, GiB | collectives | MiB"
    " | copies | MiB | traffic, ms | TFLOP | bound, ms | images/s | hours"
  )
  lines = [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|"]
  order = list(TOPOLOGIES)
  key = lambda x: (order.index(x["topology"]), x["config"], x["setting"])
  lines += [_row(x) for x in sorted(records, key=key)]
  known = {(x["config"], x["topology"], x["setting"]) for x in records}
  for config, topology, setting in PLAN:
    if (config, topology, setting) not in known:
      recipe = _recipe(config)
      lines.append(f"| {recipe} | {topology} | {setting} | not compiled yet |")
  return "\n".join(lines) + "\n"


def _row(record: Mapping[str, Any]) -> str:
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
    cells += [
      str(sum(x["count"] for x in exchanged)),
      f"{sum(x['bytes'] for x in exchanged) / 2**20:.0f}",
      str(sum(x["count"] for x in moved)),
      f"{sum(x['bytes'] for x in moved) / 2**20:.0f}",
      f"{1000 * record['xla_bytes_accessed'] / chip.bandwidth:.1f}",
    ]
  else:
    cells += ["–"] * 5
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
