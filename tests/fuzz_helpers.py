"""Fields of configs under any values, for the tests that try them."""

import dataclasses
import json
import math
import pathlib
import time
import typing

from hypothesis import strategies as st

from essl_jax import config as config_lib
from essl_jax.config import flags
from essl_jax.errors import UsageError
from essl_jax.training import networks as networks_lib

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SECONDS = 10.0  # in which a config is refused or accepted
# Starts whose configs have all fields of all parts together.
_QUICK = str(CONFIGS / "quickstart.py")
STARTS = (
  (_QUICK,),
  (_QUICK, "--config.method=simsiam"),
  (_QUICK, "--config.method=barlow_twins", "--config.encoder.name=vit"),
  (_QUICK, "--config.method=byol"),
  (str(CONFIGS / "photonics_gpm.py"),),
)
NASTY = (
  "",
  "None",
  "inf",
  "-inf",
  "nan",
  "1e308",
  "1e-320",
  "-1",
  "0",
  "1" + "0" * 12,
  "1" + "0" * 400,
  "9" * 5000,
  "1.5",
  "true",
  "(1, 2)",
  "(inf, nan)",
  "((0.0, 0.5), (0.5, 1e9))",
  "(" * 1000,
  "{}",
  "__import__('os')",
  "a:b",
  "os:system",
  "a" * 300,
  "~nobody-here/x",
  "/dev/null",
  "../..",
  "\x00",
  "\ud800",
  "a\nb",
  "rotation*rotation",
  "'quoted'",
  "\u0661",
)
NUMBERS = st.one_of(
  st.integers(-(10**30), 10**30),
  st.floats(),
  st.sampled_from([0, 1, -1, 2**31, 2**63, 10**12, 1e308, -1e308, 1e-320]),
)
TEXTS = st.one_of(
  st.sampled_from(NASTY),
  NUMBERS.map(str),
  st.lists(NUMBERS, max_size=5).map(lambda x: str(tuple(x))),
  st.text(max_size=30),
)
PLAIN = st.recursive(
  st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(NASTY)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.lists(inner, max_size=4).map(tuple),
    st.dictionaries(st.sampled_from(("size", "name", "x", "k")), inner),
  ),
  max_leaves=5,
)


def walk(start):
  """Names, fields and values of the config of a start, one of `STARTS`."""
  values = flags.raw(*start[:1], start[1:])
  return list(flags.walk(config_lib.schema(values), values))


def try_flags(*words):
  """Loads a config as the program does; see `settle`."""
  return settle(lambda: flags.load(words[0], words[1:]))


def try_values(start, name, value):
  """Like `try_flags`, of a recipe that sets a field or a group to a value."""
  values = flags.raw(start[0], start[1:])
  holder = values
  *groups, last = name.split(".")
  for group in groups:
    holder = holder.setdefault(group, {})
  holder[last] = value
  return settle(lambda: config_lib.parse(values))


def settle(load, more=lambda config: None):
  """Loads a config and builds its networks.

  Args:
    load: gives the config, or refuses it.
    more: done with the config, and may refuse it too.

  Returns:
    The config, or the line that refuses it; all else fails the test.
  """
  begun = time.monotonic()
  try:
    config = load()
    networks_lib.check_parts(config)
    networks_lib.make_networks(config)
    more(config)
  except UsageError as error:
    line = str(error)
    assert line and "\n" not in line and len(line) < 4000, line
    config = line
  else:
    assert_sane(config)
  assert time.monotonic() - begun < SECONDS
  return config


def assert_sane(config):
  """All values have their types, and can be written and read again."""
  text = json.dumps(config_lib.to_dict(config), allow_nan=False)
  assert config_lib.parse(json.loads(text)) == config
  for number in _numbers(dataclasses.asdict(config)):
    assert math.isfinite(number) and abs(number) <= 2**50


def _numbers(tree):
  if isinstance(tree, dict):
    tree = list(tree.values())
  if isinstance(tree, list | tuple):
    for value in tree:
      yield from _numbers(value)
  elif isinstance(tree, int | float):
    yield tree


def is_numeric(hint):
  """Whether a field holds numbers, other than choices among some."""
  if typing.get_origin(hint) is typing.Literal:
    return False
  return hint in (int, float) or any(map(is_numeric, typing.get_args(hint)))


def is_optional(hint):
  """Whether a field may be None."""
  return type(None) in typing.get_args(hint)
