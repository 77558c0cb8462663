"""Reads the weights of a run's checkpoint and describes them."""

from collections.abc import Mapping
import json
import os
import sys
from typing import Any

from essl_jax import config as config_lib
from essl_jax.config import parts
from essl_jax.convert import networks, resnet
from essl_jax.data.preprocessing import Preprocessing
from essl_jax.errors import UsageError
from essl_jax.storage import about as about_lib
from essl_jax.storage import json_files, places
from essl_jax.storage.workdir import read_config, to_json
from essl_jax.texts import first_line


def read(
  workdir: str | os.PathLike[str], which: str = "latest"
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a run's weights; needs neither its data nor its accelerator.

  Args:
    workdir: of the run.
    which: checkpoint, `latest` or `best`.

  Returns:
    The weights that its evaluations measure, by network, and the metadata of an
    export.

  Raises:
    UsageError: it is not a run, or holds no such checkpoint.
  """
  from essl_jax.storage import checkpoint  # Orbax takes seconds to import

  config, best = read_config(workdir), ""
  about_lib.make_importable(workdir)
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
    metadata = _describe(config, step) | {"network": network}
    metadata |= _preprocessing(workdir, config)
  except (AttributeError, KeyError, TypeError) as error:
    raise UsageError(
      f"config.json in {workdir} is damaged"
      f" ({first_line(error, with_type=True)}): restore the file"
    ) from error
  return variables, metadata | _figures(workdir, step)


def _describe(config: Mapping[str, Any], step: int) -> dict[str, Any]:
  """Describes a run's weights by its config."""
  encoder = config["encoder"]
  metadata = {
    "encoder": encoder,
    "source": f"essl_jax run, step {step}",
    "step": step,
    "method": config["method"],
    "data": config["data"]["name"],
    "precision": config.get("precision", "float32"),
    "features": config.get("evaluate_features", "output"),
  }
  if encoder["name"] == resnet.ENCODER:
    metadata |= {name: encoder[name] for name in resnet.FIELDS}
  for name in config.get("terms", ()):
    try:
      section = parts.TERM.find(name).section
    except UsageError as error:  # its module may be gone
      line = "note: the file will not describe this term's head"
      print(f"{line}: {error}", file=sys.stderr)
    else:
      metadata |= {section: config[section]} if section in config else {}
  return metadata


def _preprocessing(
  workdir: str | os.PathLike[str], config: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the preprocessing, as the run or else its config states it.

  Runs of earlier versions do not state the size of images if it comes from the
  source: `image_shape` and `resize_size` are then missing.
  """
  known = about_lib.read(workdir)
  names = ("preprocessing", "classes", "recipe")  # no private paths
  found = {name: known[name] for name in names if name in known}
  if "preprocessing" not in found:
    view, data = config["views"]["first"], config["data"]
    stated = {
      "input_size": view["size"],
      "mean": tuple(view["mean"]),
      "std": tuple(view["std"]),
      "white_level": data.get("white_level"),
    }
    if side := data.get("image_size"):
      resize = data.get("resize_size") or side
      shape = (side, side, len(view["mean"]))
      whole = Preprocessing(image_shape=shape, resize_size=resize, **stated)
      stated = whole.to_json()
    found["preprocessing"] = stated
  return found


def _figures(
  workdir: str | os.PathLike[str], step: int
) -> dict[str, dict[str, Any]]:
  """Returns the numbers of `results.json` by evaluation, if of this step."""
  try:
    results = json_files.read_object(places.locate(workdir) / "results.json")
    if results.get("step") != step:
      return {}
    found = {
      evaluation: {k: x for k, x in figures.items() if _is_number(x)}
      for evaluation, figures in results["figures"].items()
    }
    json.dumps(to_json(found), allow_nan=False)
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return {}  # not evaluated or not readable; the weights matter more
  found = {name: figures for name, figures in found.items() if figures}
  return {"figures": found} if found else {}


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
