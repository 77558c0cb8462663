"""What a config may ask for and most likely does not mean."""

from typing import Any

# What groups have in common beside the identity: these do the same somewhere
# if they share a word, others if they have the same name.
_SHIFTS = {"across", "down"}
_PARTS = {
  "horizontal_flip": {"mirror"},
  "vertical_flip": {"turn over"},
  "flips": {"mirror", "turn over"},
  "half_swap": {"across"},
  "vertical_half_swap": {"down"},
  "half_translation": _SHIFTS,
  "jigsaw": _SHIFTS,
  "any_roll": _SHIFTS,
}
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
  for predicted in _factors(config.equivariance.group):
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
        f"{field} applies elements of {predicted} at random and"
        f" config.equivariance.group predicts them, {why}: leave one out"
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
  if any(_overlap(group, drawn) for drawn in view.groups):
    fields.append(f"{path}.groups")
  extra = config.views.extra
  if name == "first" and extra is not None and _overlap(group, extra):
    fields.append("config.views.extra")
  return fields


def _factors(product: str) -> list[str]:
  return [factor.strip() for factor in product.split("*")]


def _overlap(group: str, product: str) -> bool:
  """Whether a group shares an element with a factor of a product."""
  parts = lambda name: _PARTS.get(name, {name})
  return any(parts(group) & parts(factor) for factor in _factors(product))
