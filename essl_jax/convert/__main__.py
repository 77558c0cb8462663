"""Command line: `python -m essl_jax.convert import|export|show`."""

import argparse
from collections.abc import Mapping, Sequence
import os
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from essl_jax import arguments as arguments_lib
from essl_jax import config as config_lib
from essl_jax.config import parts
from essl_jax.convert import files, networks, recognise, torch_names
from essl_jax.errors import UsageError
from essl_jax.storage import buckets, outputs, places, weights
from essl_jax.storage.workdir import read_config
from essl_jax.texts import first_line, printable, some

_ARCHITECTURE = ("depth", "stem", "width")  # of a ResNet


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = arguments_lib.Parser(prog="essl_jax.convert", description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)

  load = commands.add_parser(
    "import", help="a PyTorch checkpoint to Flax weights"
  )
  load.add_argument("source", help=".pth, .pt, .pth.tar, .safetensors or .npz")
  load.add_argument("output", help="the *.safetensors to write")
  _add_reading(load)
  load.add_argument("--overwrite", action="store_true")

  export = commands.add_parser(
    "export", help="a run, or Flax weights, to Flax or PyTorch weights"
  )
  export.add_argument("source", help="a run's workdir, or Flax weights")
  export.add_argument("output", help="*.safetensors, or *.pth for PyTorch")
  export.add_argument(
    "--format",
    choices=("flax", "torch"),
    help="Flax weights with heads, or the encoder under torchvision's names",
  )
  export.add_argument(
    "--checkpoint", choices=("latest", "best"), default="latest"
  )
  export.add_argument("--overwrite", action="store_true")

  show = commands.add_parser("show", help="what a file holds; writes nothing")
  show.add_argument("source")
  _add_reading(show)
  return parser.parse_args(arguments)


def _add_reading(command: argparse.ArgumentParser) -> None:
  """Adds the flags that say how a PyTorch checkpoint is read."""
  command.add_argument(
    "--encoder",
    help="which of several encoders, by its prefix (teacher, momentum_encoder)",
  )
  command.add_argument(
    "--keep-classifier",
    action="store_true",
    help="imports fc or online_head instead of leaving it out",
  )
  command.add_argument(
    "--most-gib",
    type=float,
    default=files.MOST_GIB,
    metavar="GIB",
    help="memory that the tensors may take; eight times the size of the file"
    " is always allowed (default: %(default)s)",
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one command.

  Args:
    arguments: of the command line; the process's own when absent.

  Raises:
    UsageError: what is asked for cannot be done; nothing was written.
  """
  options = _parse(arguments)
  # Beside a training, its accelerators must be left alone.
  jax.config.update("jax_platforms", "cpu")
  if options.command != "show":
    _check_output(options)
  if options.command == "export" and _is_run(options.source):
    _export(options, *_read_run(options.source, options.checkpoint))
    return
  with buckets.local_copy(options.source, "source") as options.source:
    _run(options)


def _check_output(options: argparse.Namespace) -> None:
  """Raises UsageError where nothing can be written."""
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
  """Runs one command on a file of this machine."""
  if options.command == "import":
    _import(options)
  elif options.command == "export":
    _export(options, *weights.load(options.source))
  elif weights.is_flax(options.source):
    _print_weights(*weights.load(options.source))
  else:
    imported, metadata = _recognise(options)
    _print_import(imported, metadata)


def _import(options: argparse.Namespace) -> None:
  imported, metadata = _recognise(options)
  _print_import(imported, metadata)
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
  try:
    imported = recognise.import_checkpoint(
      tree,
      keep_classifier=options.keep_classifier,
      encoder=options.encoder,
    )
  except UsageError as error:
    raise UsageError(f"{options.source}: {error}") from error
  encoder = {k: v["encoder"] for k, v in imported.variables.items()}
  metadata = {
    **torch_names.architecture(encoder),
    "source": f"{imported.form} ({os.path.basename(options.source)})",
  }
  return imported, metadata


def _form(options: argparse.Namespace) -> str:
  """What to export: "flax" or "torch"."""
  suffix = pathlib.Path(options.output).suffix
  default = "torch" if suffix in (".pth", ".pt") else "flax"
  return options.format or default


def _export(
  options: argparse.Namespace,
  variables: Mapping[str, Any],
  metadata: Mapping[str, Any],
) -> None:
  _print_weights(variables, metadata)
  if _form(options) == "flax":
    weights.save(
      options.output, variables, metadata, overwrite=options.overwrite
    )
  else:
    try:
      tensors = torch_names.to_torch_resnet(
        {name: values["encoder"] for name, values in variables.items()}
      )
    except (KeyError, ValueError) as error:
      raise UsageError(
        f"{options.source} holds no whole ResNet encoder: {error}: convert or"
        " export its weights again"
      ) from error
    classifier = variables["params"].get("classifier")
    if classifier:
      tensors["fc.weight"] = classifier["kernel"].T
      tensors["fc.bias"] = classifier["bias"]
    files.write_state_dict(options.output, tensors, overwrite=options.overwrite)
    print(f"{len(tensors)} tensors under torchvision's names")
  print(f"wrote {options.output}")


def _read_run(
  workdir: str, which: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The weights of a run's checkpoint; needs neither data nor accelerator."""
  from essl_jax.storage import checkpoint  # Orbax takes seconds to import

  config, best = read_config(workdir), ""
  if which == "best":
    best = config_lib.ranking_figure(config_lib.parse(config))
  with checkpoint.Checkpoints(
    workdir, best_metric=best, read_only=True
  ) as checkpoints:
    tree = checkpoints.restore_arrays(which)
    step = checkpoints.restored
    assert step is not None
  try:
    variables, network = networks.choose(config, tree)
    return variables, _describe(config, step) | {"network": network}
  except (AttributeError, KeyError, TypeError) as error:
    raise UsageError(
      f"config.json in {workdir} is damaged"
      f" ({first_line(error, with_type=True)}): restore the file"
    ) from error


def _describe(config: Mapping[str, Any], step: int) -> dict[str, Any]:
  """The metadata of a run's weights."""
  encoder = config["encoder"]
  metadata = {
    "encoder": encoder,
    "source": f"essl_jax run, step {step}",
    "step": step,
    "method": config["method"],
    "data": config["data"]["name"],
  }
  if encoder["name"] == "resnet":
    metadata |= {name: encoder[name] for name in _ARCHITECTURE}
  for name in config.get("terms", ()):
    try:
      section = parts.TERM.find(name).section
    except UsageError as error:  # its module may be gone
      print(f"note: the file does not say what its head was asked for: {error}")
    else:
      metadata |= {section: config[section]} if section in config else {}
  return metadata


def _check_ending(path: str) -> None:
  if not path.endswith(".safetensors"):
    raise UsageError(f"{path} must end in .safetensors for Flax weights")


def _print_weights(
  variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
  """Says which networks there are, and what is known of them."""
  _print_encoder(metadata)
  for name, value in sorted(metadata.items()):
    if name not in _ARCHITECTURE:
      print(printable(f"  {name}: {value}"))
  for network, parameters in variables.get("params", {}).items():
    leaves = jax.tree.leaves(parameters)
    count = sum(np.size(leaf) for leaf in leaves)
    print(f"{printable(network)}: {count:,} parameters in {len(leaves)} arrays")


def _print_encoder(metadata: Mapping[str, Any]) -> None:
  if "depth" not in metadata:  # no ResNet
    return
  print(
    f"encoder: ResNet-{metadata['depth']}, {metadata['stem']} stem, width"
    f" {metadata['width']}"
  )


def _print_import(
  imported: recognise.Imported, metadata: Mapping[str, Any]
) -> None:
  """Accounts for every entry of the checkpoint."""
  print(f"recognised: {imported.form}")
  _print_encoder(metadata)
  for network in imported.variables["params"]:
    names = [n for n, where in imported.taken.items() if where == network]
    print(f"imported as {network}: {some(names)}")
  for reason in dict.fromkeys(imported.left_out.values()):
    names = [n for n, why in imported.left_out.items() if why == reason]
    print(f"left out, {reason}: {some(names)}")
  for note in imported.notes:
    print(f"note: {note}")


@arguments_lib.tells_wrong_input
def run() -> int:
  """Runs the program and returns its exit code."""
  main()
  return 0


if __name__ == "__main__":
  sys.exit(run())
