"""Equivariance terms in a step: one of each on SimCLR, alone and together."""

import jax
import pytest
import step_helpers

# Heads of terms that are quick to compile.
SMALL = {
  "augself": {"hidden_widths": (16,), "flip": 0.25},
  "equimod": {"projector": {"widths": (24, 16)}, "parameters_width": 8},
  "care": {"projector": (24, 16), "chunks": 4},
  "sie": {
    "equivariant_features": 6,
    "invariant_projector": (12, 12),
    "equivariant_projector": (8, 8),
  },
  "stl": {
    "projector": (16, 8),
    "transformation_head": (16, 6),
    "transformation_projector": (8, 8),
    "invariance_weight": 1.0,
  },
}


@pytest.fixture(scope="module")
def config_of(tiny_config):
  return lambda *terms, **fields: tiny_config(
    "simclr", terms=terms, **{x: SMALL[x] for x in terms}, **fields
  )


@pytest.mark.parametrize("name", SMALL)
def test_a_step(config_of, name):
  config = config_of(name)
  state = step_helpers.make_state(config)
  step = jax.jit(step_helpers.make_step(config, None))
  after, metrics = step(state, {"image": step_helpers.images()})
  print({k: float(v) for k, v in metrics.items()})
