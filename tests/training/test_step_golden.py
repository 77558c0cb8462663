"""The train step, recorded."""

import jax
import numpy as np
import pytest
import step_helpers
import xla_flags


@pytest.mark.parametrize(
  ("blocks", "loss", "gradient_norm"),
  [
    ((1, 1), 0.587422, 1.355242),
    pytest.param(None, 0.550063, 5.644008, marks=pytest.mark.slow),
  ],
)
def test_one_step_golden(tiny_config, blocks, loss, gradient_norm):
  """One step of a narrow E-SimSiam, of two blocks and with a whole ResNet-18.

  Update these numbers only when the meaning of a step changes on purpose:
  initialisation, augmentation, objective or optimiser. Then trained results
  change as well, and CHANGELOG.md has to say so.
  """
  config = tiny_config("simsiam", encoder={"blocks": blocks})
  # As it was recorded; other tests are compiled without optimisations.
  step = jax.jit(
    step_helpers.make_step(config, None), compiler_options=xla_flags.OPTIMISED
  )
  batch = {"image": step_helpers.images()}
  _, metrics = step(step_helpers.make_state(config), batch)
  # The gradient is the less exact: rounding moves images across the ReLUs.
  recorded = {
    "loss": (loss, 2e-4),
    "gradient_norm": (gradient_norm, 1e-3),
  }
  for name, (value, tolerance) in recorded.items():
    np.testing.assert_allclose(
      metrics[name], value, rtol=tolerance, err_msg=name
    )
