"""What earlier versions have left in workdirs, as of today."""

from collections.abc import Mapping
from typing import Any

# Fields that every config had, null where its method did not read them.
_OF_METHODS = ("temperature", "predictor_hidden", "redundancy_weight")
_OF_CLASSES = ("knn", "probe", "finetune")
_PHOTONICS = "photonics"
_OF_PRETRAINING = ["transformation", "collapse", "symmetry"]


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config in today's form.

  Before parts brought their own fields, every config had those of all methods,
  encoders, sources and evaluations, and the encoder was `model`.

  Args:
    config: nested, as `config.json` holds it; of any version.

  Returns:
    The same run's, without what its parts do not read.
  """
  found = dict(config)
  if "model" not in found or "encoder" in found:
    return found
  encoder = dict(found.pop("model"))
  if encoder.get("name") == "photonic_cnn":
    encoder = {"name": _PHOTONICS, "width": encoder["width"]}
  found["encoder"] = encoder
  for name in _OF_METHODS:
    if found.get(name) is None:
      found.pop(name, None)
  unread = ["projector"] if found.get("method") == "none" else []
  data = dict(found.get("data", {}))
  if data.get("name") == _PHOTONICS:
    is_trained = found.get("epochs") or found.get("init_from")
    measures = _OF_PRETRAINING if is_trained else []
    found["evaluations"] = [*measures, _PHOTONICS]
    unread += _OF_CLASSES
  else:
    data.pop("generate", None)
    unread.append("regression")
  found["data"] = data
  return {name: x for name, x in found.items() if name not in unread}
