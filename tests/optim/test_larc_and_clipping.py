"""LARC, gradient clipping and warm-up from a rate, checked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from essl_jax import optim
from essl_jax.errors import UsageError
from essl_jax.training import networks as networks_lib
from essl_jax.training import online, parameter_groups

pytestmark = pytest.mark.quick


def test_larc_by_hand():
  """Checks three steps by hand: adapted, clipped, and at a rate of 0."""
  eta, decay, momentum = 0.02, 0.1, 0.9
  rates = [0.3, 0.001, 0.0]
  random = np.random.default_rng(0)
  w, b = random.normal(size=(3, 4)), random.normal(size=4)
  params = {"kernel": jnp.asarray(w), "bias": jnp.asarray(b)}
  optimizer = optim.lars(
    lambda step: jnp.asarray(rates, jnp.float32)[step],
    weight_decay=decay,
    momentum=momentum,
    trust_coefficient=eta,
    clip_rate=True,
  )
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  velocity = {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}
  clipped = []
  for rate in rates:
    gradients = {k: random.normal(size=x.shape) for k, x in params.items()}
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    size, own = (np.linalg.norm(x) for x in (w, gradients["kernel"]))
    adapted = eta * size / (own + decay * size)
    clipped.append(adapted > rate)
    part = 1.0 if adapted > rate else adapted / rate
    moved = part * (gradients["kernel"] + decay * w)
    velocity["kernel"] = momentum * velocity["kernel"] + moved
    velocity["bias"] = momentum * velocity["bias"] + gradients["bias"]
    w, b = w - rate * velocity["kernel"], b - rate * velocity["bias"]
    np.testing.assert_allclose(params["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(params["bias"], b, rtol=1e-5)
  assert clipped == [False, True, True]


def test_larc_leaves_what_has_no_norm_and_masked_arrays_alone():
  params = {"zero": jnp.zeros((2, 2)), "spared": jnp.ones((2, 2))}
  params |= {"still": jnp.ones((2, 2))}
  optimizer = optim.lars(
    1.0,
    weight_decay=0.5,
    clip_rate=True,
    mask={"zero": True, "spared": False, "still": True},
  )
  gradients = jax.tree.map(jnp.ones_like, params)
  gradients["still"] = jnp.zeros((2, 2))
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_array_equal(updates["zero"], -np.ones((2, 2)))
  np.testing.assert_array_equal(updates["spared"], -np.ones((2, 2)))
  np.testing.assert_array_equal(updates["still"], np.zeros((2, 2)))


@pytest.mark.parametrize("clip_rate", [False, True])
def test_lars_spares_positions_and_tokens(clip_rate):
  """They have three axes, like kernels of 1-D convolutions."""
  params = {
    "pos_embed": jnp.ones((1, 5, 4)),
    "cls_token": jnp.ones((1, 1, 4)),
    "patch_embed": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
    "norm": {"scale": jnp.ones(4)},
    "conv": {"kernel": jnp.ones((1, 3, 4))},
    "own": jnp.ones((5, 4)),
  }
  optimizer = optim.lars(1.0, weight_decay=0.5, clip_rate=clip_rate)
  gradients = jax.tree.map(jnp.ones_like, params)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  plain = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, x in jax.tree_util.tree_leaves_with_path(updates)
    if np.all(x == -1)
  }
  assert plain == {
    *("pos_embed", "cls_token", "patch_embed/bias", "norm/scale"),
  }


def test_warm_up_from_a_start_rate():
  common = {"warmup_steps": 4, "total_steps": 8}
  schedule = optim.warmup_cosine(0.5, start=0.1, **common)
  rates = jax.vmap(schedule)(jnp.arange(5))
  np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
  for wrong in (0.6, -0.1):
    with pytest.raises(ValueError, match=rf"peak=0.5\], got {wrong}"):
      optim.warmup_cosine(0.5, start=wrong, **common)


def test_gradients_are_clipped_together_or_each():
  """Heads set aside do not count in the norm and are not clipped."""
  gradients = {
    "encoder": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([0.5])},
    "head": {"bias": jnp.array([4.0])},
    "aside": {"bias": jnp.array([100.0])},
  }
  norm = np.sqrt(3**2 + 0.5**2 + 4**2)
  clipped = _clipped(gradients, optim.Clip(2.0, aside=("aside",)))
  wanted = jax.tree.map(lambda x: x * 2 / norm, gradients)
  wanted["aside"] = gradients["aside"]
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), clipped, wanted
  )
  each = _clipped(gradients, optim.Clip(2.0, each=True, aside=("aside",)))
  values = [float(x.sum()) for x in jax.tree.leaves(each)]
  assert values == [100.0, 0.5, 2.0, 2.0]
  kept = _clipped(gradients, optim.Clip(200.0))
  jax.tree.map(np.testing.assert_array_equal, kept, gradients)


def _clipped(gradients, clip):
  transformation = clip.transformation
  state = transformation.init(gradients)
  return jax.jit(transformation.update)(gradients, state, gradients)[0]


def test_the_optimizer_clips_before_momentum_and_decay():
  params = {"encoder": {"kernel": jnp.ones((1, 1))}}
  group = optim.Group(1.0, 1.0, weight_decay=0.25, momentum=0.5)
  optimizer = optim.make_optimizer(
    {"weights": group, "biases": group}, clip=optim.Clip(0.5)
  )
  state = optimizer.init(params)
  for wanted in (-0.75, -1.125):  # 0.5 + 0.25, then plus half of that
    updates, state = optimizer.update(
      {"encoder": {"kernel": jnp.full((1, 1), 10.0)}}, state, params
    )
    assert float(updates["encoder"]["kernel"][0, 0]) == wanted


def test_config_clips_all_but_what_learns_alongside(tiny_config):
  recipe = {"clip_gradients": 3.0, "clip_each_array": True}
  config = tiny_config("simsiam", optimizer=recipe)
  terms = networks_lib.active_terms(config)
  classifier = online.OnlineClassifier(num_classes=4)
  networks = networks_lib.make_networks(config, [classifier, *terms])
  aside = networks.aside_heads
  assert aside == ("classifier",)
  clip = parameter_groups.clip(config, aside)
  assert clip == optim.Clip(3.0, each=True, aside=("classifier",))
  assert "norm of 3, each array" in clip.describe()
  assert parameter_groups.clip(tiny_config("simsiam")) is None


def test_config_of_larc_and_warm_up(tiny_config):
  recipe = {"name": "lars", "trust_coefficient": 0.02, "clip_rate": True}
  recipe |= {"learning_rate": 1.0, "scale_with_batch": False}
  recipe |= {"warmup_epochs": 1, "warmup_from": 3e-5}
  config = tiny_config("simsiam", epochs=2, optimizer=recipe)
  group = parameter_groups.make(config, 4)["weights"]
  assert group.clip_rate
  assert "LARC 0.02" in group.describe(is_decayed=True)
  assert float(group.learning_rate(0)) == np.float32(3e-5)
  recipe["warmup_from"] = 2.0
  config = tiny_config("simsiam", epochs=2, optimizer=recipe)
  with pytest.raises(UsageError, match=r"warmup_from: .* peak=1\], got 2"):
    parameter_groups.make(config, 4)
