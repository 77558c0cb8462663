"""Values that no field can mean are refused, whichever field has them.

Right is one line that names the field, or a config that works; the whole of it
is tried in `tests/faults/test_fuzz_config.py`, a part of it here.
"""

import fuzz_helpers
from fuzz_helpers import STARTS
import fuzz_settings
from hypothesis import given
from hypothesis import strategies as st
import pytest

from essl_jax import config as config_lib
from essl_jax.config import flags, parts
from essl_jax.config.schema import CHOICES
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

NONSENSE = ("inf", "nan", "1e308", "-1", "1000000000000")
FIELDS = {
  name: (start, value)
  for start in STARTS
  for name, field, value in fuzz_helpers.walk(start)
  if fuzz_helpers.is_numeric(field.hint)
}
FEW = fuzz_settings.few(30)


def _spelled(value, nonsense):
  """A field's value with a number of it replaced, as a flag spells it."""
  if not isinstance(value, tuple):
    return nonsense
  rest = [str(x) for x in value[1:]]
  return f"({', '.join([nonsense, *rest])},)"


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_no_numeric_field_takes_nonsense(nonsense):
  """By flag; fields are walked, so that a new one is tried too."""
  assert len(FIELDS) > 80
  accepted = set()
  for name, (start, value) in FIELDS.items():
    text = _spelled(value, nonsense)
    found = fuzz_helpers.try_flags(*start, f"--config.{name}={text}")
    if isinstance(found, str):
      assert name.rpartition(".")[2] in found or "config.encoder" in found, (
        found
      )
    else:
      accepted.add(name.rpartition(".")[2])
  # A mean may be negative, and arrays may take a terabyte.
  sensible = {"-1": {"mean"}, "1000000000000": {"max_bytes"}}
  assert accepted == sensible.get(nonsense, set())


@FEW
@given(st.data())
def test_any_flag_is_told_or_works(data):
  start = data.draw(st.sampled_from(STARTS))
  name = data.draw(st.sampled_from([x for x, *_ in fuzz_helpers.walk(start)]))
  text = data.draw(fuzz_helpers.TEXTS)
  fuzz_helpers.try_flags(*start, f"--config.{name}={text}")


@FEW
@given(st.data())
def test_any_value_of_a_recipe_is_told_or_works(data):
  start = data.draw(st.sampled_from(STARTS))
  names = [x for x, *_ in fuzz_helpers.walk(start)]
  groups = {x.partition(".")[0] for x in names}
  name = data.draw(st.sampled_from(sorted({*names, *groups})))
  fuzz_helpers.try_values(start, name, data.draw(fuzz_helpers.PLAIN))


def test_every_optional_field_can_be_unset_by_a_flag():
  """`None` unsets what may be unset, and is a text or a choice elsewhere."""
  unset = 0
  for start in STARTS:
    values = flags.raw(start[0], start[1:])
    kind = config_lib.schema(values)
    for name, field, _ in fuzz_helpers.walk(start):
      if not fuzz_helpers.is_optional(field.hint):
        continue
      found = flags.raw(start[0], (*start[1:], f"--config.{name}=None"))
      for group in name.split("."):
        found = found[group]
      assert found is None, name
      unset += 1
  assert unset > 20 and kind is not None


def _set_by(start, name, text):
  found = flags.raw(start[0], (*start[1:], f"--config.{name}={text}"))
  for group in name.split("."):
    found = found[group]
  return found


def test_one_value_alone_will_do_for_every_tuple():
  """Of any number of values; and several with brackets or without."""
  every = [
    f"--config.{kind.field}={','.join(kind.names())}"
    for kind in (parts.TERM, parts.EVALUATION)
  ]
  tried = set()
  for start in (*STARTS, (*STARTS[0], *every)):
    for name, field, value in fuzz_helpers.walk(start):
      several = [x for x in value if x] if isinstance(value, tuple) else []
      if not several or flags.type_name(field.hint).startswith("("):
        continue
      one = several[0]
      assert _set_by(start, name, flags.show(one)) == (one,), name
      if name in CHOICES:  # which cannot be named twice
        continue
      both = (one, one)
      assert _set_by(start, name, flags.show(both)) == both
      if not isinstance(one, tuple):
        assert _set_by(start, name, f"{one},{one}") == both
      tried.add(name)
  assert len(tried) > 5, tried


@pytest.mark.parametrize("text", ["1", "(1)", "(1,)", "[1]", "1,"])
def test_shots_and_labels_of_transfer(text):
  start = (
    str(fuzz_helpers.CONFIGS / "quickstart.py"),
    ("--config.evaluations=transfer",),
  )
  load = lambda *more: flags.load(start[0], (*start[1], *more)).transfer
  assert load(f"--config.transfer.shots={text}").shots == (1,)
  assert load("--config.transfer.labels=0.1").labels == (0.1,)
  assert load("--config.transfer.sets=digits").sets == ("digits",)
  for several in ("1,5", "(1,5)", "(1, 5)", "[1,5]"):
    assert load(f"--config.transfer.shots={several}").shots == (1, 5)
  for wrong in ("0.5", "many", "1;5", "1 5", "True"):
    with pytest.raises(UsageError, match=r"transfer\.shots must be int, got"):
      load(f"--config.transfer.shots={wrong}")


@pytest.mark.parametrize(
  ("name", "value", "expected"),
  [
    ("views.first.scale", 0.5, r"such as \(0.5, 0.5\); got 0.5"),
    ("transfer.shots", 1, r"such as \(1,\); got 1"),
    ("transfer.shots", None, "; got None"),
  ],
)
def test_a_value_in_place_of_a_tuple_says_what_to_write(name, value, expected):
  quick = str(fuzz_helpers.CONFIGS / "quickstart.py")
  values = {"evaluations": ("transfer",), name: value}
  with pytest.raises(UsageError, match=f"{name} must be a tuple.*{expected}"):
    flags.load(quick, values)


def test_none_stays_a_choice_and_a_text():
  quick = str(fuzz_helpers.CONFIGS / "quickstart.py")
  found = flags.load(quick, ["--config.probe.protocol=none"])
  assert found.probe.protocol == "none"
  found = flags.load(quick, ["--config.data.train_split=None"])
  assert found.data.train_split == "None"
  found = flags.load(quick, ["--config.data.dir='None'"])
  assert found.data.dir == "None"


def test_a_recipe_that_is_no_text_is_refused(tmp_path):
  path = tmp_path / "nul.py"
  path.write_bytes(b"x = 1\0\n")
  with pytest.raises(UsageError, match=r"nul\.py is not valid Python"):
    flags.read_recipe(str(path))
