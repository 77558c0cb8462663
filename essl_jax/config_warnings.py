"""What a config may ask for and most likely does not mean."""

from typing import Any

# Fields of a view that draw elements of a group at random already.
_DRAWN_BY_FIELDS = {
  "horizontal_flip": ("flip",),
  "flips": ("flip",),
  "grayscale": ("grayscale",),
  "blur": ("blur",),
  "inversion": ("solarize",),
}


def find(config: Any) -> list[str]:
  """Warns of transformations that are predicted and drawn at random at once.

  Args:
    config: a checked `config.Config`.

  Returns:
    A line for each, which says why and what to do.
  """
  if not config.equivariance.weight or not config.epochs:
    return []
  found = []
  for predicted in config.equivariance.group.split("*"):
    for name in ("first", "second", "third"):
      if config.method == "none" and name != "third":
        continue
      why = (
        "so nothing tells which element was applied and the prediction is"
        " partly left to chance"
        if name == "third"
        else "so the SSL loss asks the encoder to forget what the prediction"
        " asks it to keep"
      )
      found += [
        f"{field} applies {predicted} at random and config.equivariance.group"
        f" predicts it, {why}: leave one out"
        for field in _drawn_at_random(config, name, predicted)
      ]
  return found


def _drawn_at_random(config: Any, name: str, group: str) -> list[str]:
  """The config fields by which a view draws elements of a group."""
  view = getattr(config.views, name)
  path = f"config.views.{name}"
  fields = [
    f"{path}.{field}"
    for field in _DRAWN_BY_FIELDS.get(group, ())
    if getattr(view, field) > 0
  ]
  if any(group in drawn.split("*") for drawn in view.groups):
    fields.append(f"{path}.groups")
  extra = config.views.extra
  if name == "first" and extra is not None and group in extra.split("*"):
    fields.append("config.views.extra")
  return fields
