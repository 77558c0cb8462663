"""Prints descriptions of weights and checkpoints."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from essl_jax.convert import encoders, recognise, resnet
from essl_jax.texts import printable, some


def print_weights(
  variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
  """Prints the networks in a file or run and what is known about them.

  Args:
    variables: Flax weights by network.
    metadata: of their file or run.
  """
  _print_encoder(metadata)
  for name, value in sorted(metadata.items()):
    if name not in resnet.FIELDS:
      print(printable(f"  {name}: {value}"))
  for network, parameters in variables.get("params", {}).items():
    leaves = jax.tree.leaves(parameters)
    count = sum(np.size(leaf) for leaf in leaves)
    print(f"{printable(network)}: {count:,} parameters in {len(leaves)} arrays")


def _print_encoder(metadata: Mapping[str, Any]) -> None:
  if line := encoders.describe(metadata):
    print(printable(f"encoder: {line}"))


def print_import(imported: recognise.Imported) -> None:
  """Prints what happened to every entry of a checkpoint.

  Args:
    imported: the result of the import.
  """
  print(f"recognised: {imported.form}")
  _print_encoder(imported.metadata)
  for network in imported.variables["params"]:
    names = [n for n, where in imported.taken.items() if where == network]
    print(f"imported as {network}: {some(names)}")
  for reason in dict.fromkeys(imported.left_out.values()):
    names = [n for n, why in imported.left_out.items() if why == reason]
    print(f"left out, {reason}: {some(names)}")
  for note in imported.notes:
    print(f"note: {note}")
