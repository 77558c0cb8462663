"""Command line: `python -m essl_jax.convert [import|export|show]`."""

import argparse
from collections.abc import Mapping, Sequence
import os
import pathlib
import sys
from typing import Any

import jax

from essl_jax import arguments as arguments_lib
from essl_jax.convert import encoders, files, printing, recognise, runs
from essl_jax.errors import UsageError
from essl_jax.storage import buckets, outputs, places, weights
from essl_jax.texts import first_line

_COMMANDS = ("import", "export", "show")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = arguments_lib.Parser(prog="essl_jax.convert", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)

  load = commands.add_parser(
    "import", help="converts a PyTorch checkpoint to Flax weights"
  )
  load.add_argument("source", help=".pth, .pt, .pth.tar, .safetensors or .npz")
  load.add_argument("output", help="the *.safetensors to write")
  _add_reading(load)
  load.add_argument("--overwrite", action="store_true")

  export = commands.add_parser(
    "export", help="writes a run or Flax weights as Flax or PyTorch weights"
  )
  export.add_argument("source", help="a run's workdir, or Flax weights")
  export.add_argument("output", help="*.safetensors, or *.pth for PyTorch")
  export.add_argument(
    "--format",
    choices=("flax", "torch"),
    help="Flax weights with heads, or the encoder alone under torchvision's"
    " names (timm's for a ViT)",
  )
  export.add_argument(
    "--checkpoint", choices=("latest", "best"), default="latest"
  )
  export.add_argument("--overwrite", action="store_true")

  show = commands.add_parser(
    "show", help="prints what a file holds; writes nothing"
  )
  show.add_argument("source")
  _add_reading(show)
  words = list(sys.argv[1:] if arguments is None else arguments)
  # A file instead of a command means import.
  first = next((x for x in words if not x.startswith("-")), "")
  if first not in _COMMANDS and os.path.splitext(first)[1]:
    words.insert(0, "import")
  return parser.parse_args(words)


def _add_reading(command: argparse.ArgumentParser) -> None:
  """Adds the flags for reading a PyTorch checkpoint."""
  command.add_argument(
    "--encoder",
    help="which of several encoders to take: its prefix, such as teacher or"
    " momentum_encoder",
  )
  command.add_argument(
    "--keep-classifier",
    action="store_true",
    help="imports the classifier (fc or online_head) too",
  )
  command.add_argument(
    "--attention-heads",
    type=int,
    metavar="N",
    help="number of attention heads of a ViT, which no tensor shows (default:"
    " that of published ViTs of this width)",
  )
  command.add_argument(
    "--most-gib",
    type=float,
    default=files.MOST_GIB,
    metavar="GIB",
    help="memory that the tensors may take, in GiB; eight times the size of the"
    " file is always allowed (default: %(default)s)",
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one command.

  Args:
    arguments: of the command line; the process's own when absent.

  Raises:
    UsageError: the command is impossible; nothing was written.
  """
  options = _parse(arguments)
  # A training may be using the accelerators.
  jax.config.update("jax_platforms", "cpu")
  if options.command != "show":
    _check_output(options)
  if options.command == "export" and _is_run(options.source):
    _export(options, *runs.read(options.source, options.checkpoint))
    return
  with buckets.local_copy(options.source, "source") as options.source:
    _run(options)


def _check_output(options: argparse.Namespace) -> None:
  """Raises UsageError if the output cannot be written."""
  if options.command == "import" or _form(options) == "flax":
    _check_ending(options.output)
  outputs.check_free(options.output, overwrite=options.overwrite)


def _is_run(source: str) -> bool:
  """Whether a source is a workdir, not a file."""
  if not places.is_remote(source):
    return not os.path.isfile(source)
  with buckets.refused(source):
    return places.is_folder(places.locate(source, "source"))


def _run(options: argparse.Namespace) -> None:
  """Runs one command on a local file."""
  if options.command == "import":
    _import(options)
  elif options.command == "export":
    _export(options, *weights.load(options.source))
  elif weights.is_flax(options.source):
    printing.print_weights(*weights.load(options.source))
  else:
    imported, metadata = _recognise(options)
    printing.print_import(imported)


def _import(options: argparse.Namespace) -> None:
  imported, metadata = _recognise(options)
  printing.print_import(imported)
  weights.save(
    options.output,
    imported.variables,
    metadata,
    overwrite=options.overwrite,
  )
  print(f"wrote {options.output}")


def _recognise(
  options: argparse.Namespace,
) -> tuple[recognise.Imported, dict[str, Any]]:
  """Reads a PyTorch checkpoint; returns Flax weights and their metadata."""
  arguments_lib.check_least(options, 0, "most_gib")
  tree = files.read(options.source, most_gib=options.most_gib)
  if weights.is_flax(options.source):
    raise UsageError(f"{options.source} holds Flax weights already")
  heads = options.attention_heads
  if heads is None:
    heads = files.stated_heads(options.source)
  try:
    imported = recognise.import_checkpoint(
      tree,
      keep_classifier=options.keep_classifier,
      encoder=options.encoder,
      attention_heads=heads,
    )
  except UsageError as error:
    raise UsageError(f"{options.source}: {error}") from error
  source = f"{imported.form} ({os.path.basename(options.source)})"
  return imported, imported.metadata | {"source": source}


def _form(options: argparse.Namespace) -> str:
  """Returns the format to export: "flax" or "torch"."""
  suffix = pathlib.Path(options.output).suffix
  default = "torch" if suffix in (".pth", ".pt") else "flax"
  return options.format or default


def _export(
  options: argparse.Namespace,
  variables: Mapping[str, Any],
  metadata: Mapping[str, Any],
) -> None:
  printing.print_weights(variables, metadata)
  if _form(options) == "flax":
    weights.save(
      options.output, variables, metadata, overwrite=options.overwrite
    )
  else:
    _export_torch(options, variables, metadata)
  print(f"wrote {options.output}")


def _export_torch(
  options: argparse.Namespace,
  variables: Mapping[str, Any],
  metadata: Mapping[str, Any],
) -> None:
  """Writes the encoder and any linear classifier under PyTorch's names."""
  encoder = {k: v["encoder"] for k, v in variables.items() if "encoder" in v}
  kind = encoders.of_variables(encoder.get("params", {}))
  if kind is None:
    raise UsageError(
      f"{options.source} holds no {encoders.NAMES} encoder; only these can be"
      " exported to PyTorch"
    )
  try:
    tensors = kind.write(encoder, metadata)
  except (ArithmeticError, KeyError, TypeError, ValueError) as error:
    raise UsageError(
      f"{options.source} holds no complete {kind.NAME} encoder:"
      f" {first_line(error)}: convert or export its weights again"
    ) from error
  classifier = variables["params"].get("classifier")
  if classifier:
    tensors[f"{kind.CLASSIFIER}.weight"] = classifier["kernel"].T
    tensors[f"{kind.CLASSIFIER}.bias"] = classifier["bias"]
  files.write_state_dict(
    options.output,
    tensors,
    heads=kind.heads(metadata),
    overwrite=options.overwrite,
  )
  print(f"{len(tensors)} tensors under {kind.EXPORTED}")


def _check_ending(path: str) -> None:
  if not path.endswith(".safetensors"):
    raise UsageError(f"{path} must end in .safetensors for Flax weights")


@arguments_lib.tells_wrong_input
def run() -> int:
  """Runs the program and returns its exit code."""
  main()
  return 0


if __name__ == "__main__":
  sys.exit(run())
