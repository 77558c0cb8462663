"""Chooses the network of a run to export: the trained one or its average."""

from collections.abc import Mapping
from typing import Any

from essl_jax.config import parts


def choose(
  config: Mapping[str, Any], tree: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
  """Returns the weights that the evaluations of a run measure.

  Args:
    config: of the run, as in `config.json`.
    tree: a train state's arrays by name.

  Returns:
    `{"params": ..., "batch_stats": ...}` by network, and `online` or `target`.
    A target network comes with the heads that only the trained one has.

  Raises:
    UsageError: the method's module is gone, and nothing else says which network
      to take.
  """
  asked = config.get("evaluate_network")
  if not asked and tree.get("target"):  # other modules may be gone
    asked = parts.METHOD.find(config["method"]).evaluated_network
  target = (tree.get("target") or {}) if asked == "target" else {}
  variables = {
    name: {**tree.get(name, {}), **target.get(name, {})}
    for name in ("params", "batch_stats")
  }
  return variables, "target" if target else "online"
