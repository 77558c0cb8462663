"""Any value for any field, by flag and by recipe: one line, or a run.

Never a traceback, never a hang, and never silence: what is accepted is finite
and within bounds, and an experiment of it is built, its evaluations checked.
"""

import fuzz_helpers
from fuzz_helpers import STARTS
import fuzz_settings
from hypothesis import given
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from essl_jax.config import flags
from essl_jax.config.schema import CHOICES
from essl_jax.data import ArraySource
from essl_jax.devices import parallel
from essl_jax.evaluation import bench as bench_lib
from essl_jax.training import checks
from essl_jax.training import experiment as experiment_lib

pytestmark = pytest.mark.faults

MANY = fuzz_settings.few(400)
FEWER = fuzz_settings.few(120)
# Small networks of few images: an experiment is built in half a second.
SMALL = (
  "--config.encoder.blocks=(1,)",
  "--config.encoder.width=4",
  "--config.batch_size=8",
  "--config.knn.k=5",
  "--config.probe.batch_size=8",
  "--config.data.image_size=None",
)
IMAGES = np.zeros((24, 16, 16, 3), np.uint8)
LABELS = np.arange(24) % 3


def _build(config):
  """Runs all checks that come before the first step."""
  source = ArraySource(IMAGES, LABELS, IMAGES, LABELS)
  mesh = parallel.make_mesh(jax.devices()[:1])
  experiment = experiment_lib.build(config, source, mesh)
  checks.check_memory(experiment)
  bench_lib.make(experiment)


@MANY
@given(st.data())
def test_any_flag_is_told_or_works(data):
  start = data.draw(st.sampled_from(STARTS))
  names = [name for name, *_ in fuzz_helpers.walk(start)]
  for_each = st.tuples(st.sampled_from(names), fuzz_helpers.TEXTS)
  pairs = data.draw(st.lists(for_each, min_size=1, max_size=3))
  words = [f"--config.{name}={text}" for name, text in pairs]
  fuzz_helpers.try_flags(*start, *words)


@MANY
@given(st.data())
def test_any_value_of_a_recipe_is_told_or_works(data):
  start = data.draw(st.sampled_from(STARTS))
  names = [name for name, *_ in fuzz_helpers.walk(start)]
  groups = {name.partition(".")[0] for name in names}
  groups |= {"views.first", "views.third", "unheard_of", "views.unheard_of"}
  name = data.draw(st.sampled_from(sorted({*names, *groups})))
  fuzz_helpers.try_values(start, name, data.draw(fuzz_helpers.PLAIN))


@pytest.mark.parametrize("nonsense", fuzz_helpers.NASTY)
def test_every_field_is_tried(nonsense):
  """With each text that has broken a program before."""
  for start in STARTS:
    for name, *_ in fuzz_helpers.walk(start):
      fuzz_helpers.try_flags(*start, f"--config.{name}={nonsense}")


@FEWER
@given(st.data())
def test_what_is_accepted_is_built_or_told(data):
  """Up to the first step, which is not computed."""
  start = (*STARTS[0], *SMALL)
  names = [name for name, *_ in fuzz_helpers.walk(start) if name not in CHOICES]
  name = data.draw(st.sampled_from(names))
  text = data.draw(fuzz_helpers.TEXTS)
  words = (*start[1:], f"--config.{name}={text}")
  fuzz_helpers.settle(lambda: flags.load(start[0], words), _build)
