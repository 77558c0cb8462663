"""Which of a run's networks is exported: the trained one or its average."""

from collections.abc import Mapping
from typing import Any

from essl_jax import config as config_lib
from essl_jax.errors import UsageError


def choose(
  config: Mapping[str, Any], tree: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
  """The weights that the evaluations of a run measure.

  Args:
    config: of the run, as `config.json` holds it.
    tree: a train state's arrays by name.

  Returns:
    `{"params": ..., "batch_stats": ...}` by network, and `online` or `target`.
    Beside a target network stand the heads that the trained one alone has.
  """
  asked = config.get("evaluate_network")
  try:
    asked = config_lib.evaluated_network(config_lib.parse(config))
  except UsageError:  # the modules of its parts may be gone
    asked = asked or "online"
  target = (tree.get("target") or {}) if asked == "target" else {}
  variables = {
    name: {**tree.get(name, {}), **target.get(name, {})}
    for name in ("params", "batch_stats")
  }
  return variables, "target" if target else "online"
