"""Upgrades configs that earlier versions wrote."""

from collections.abc import Mapping
from typing import Any

from essl_jax.config import parts

# Fields that every config had, null where its method did not read them.
_OF_METHODS = ("temperature", "predictor_hidden", "redundancy_weight")
_OF_CLASSES = ("knn", "probe", "finetune")
_OF_PRETRAINING = ["transformation", "collapse", "symmetry"]


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """Converts a config to the current form.

  In early versions every config had the fields of all methods, encoders,
  sources and evaluations, and the encoder was called `model`.

  Args:
    config: nested, as in `config.json`; of any version.

  Returns:
    The config of the same run, without fields that its parts do not read.
  """
  found = dict(config)
  if "model" not in found or "encoder" in found:
    return found
  encoder, data = dict(found.pop("model")), dict(found.get("data", {}))
  # One source had its own encoder and evaluation, which now have its name.
  name = data.get("name")
  has_own = name in parts.ENCODER.names() and name in parts.EVALUATION.names()
  if has_own:
    encoder = {"name": name, "width": encoder["width"]}
  found["encoder"] = encoder
  for field in _OF_METHODS:
    if found.get(field) is None:
      found.pop(field, None)
  unread = ["projector"] if found.get("method") == "none" else []
  if has_own:
    is_trained = found.get("epochs") or found.get("init_from")
    measures = _OF_PRETRAINING if is_trained else []
    found["evaluations"] = [*measures, name]
    unread += _OF_CLASSES
  else:
    data.pop("generate", None)
    unread.append("regression")
  found["data"] = data
  return {key: x for key, x in found.items() if key not in unread}
