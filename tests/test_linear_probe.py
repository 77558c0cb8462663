"""Both protocols of the linear probe, against a plain loop."""

import functools

from evaluation_helpers import (
  PIXELS,
  FakeSource,
  encode,
  make_variables,
)
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from essl_jax import augment
from essl_jax.errors import UsageError
from essl_jax.evaluation import features, linear_layer, linear_probe


@pytest.fixture
def variables():
  return make_variables()


def test_paper_probe_end_to_end(variables):
  source = FakeSource()
  reported = []
  arguments = {
    "image_size": 8,
    "epochs": 8,
    "batch_size": 16,
    "repetitions": 2,
    **PIXELS,
  }
  figures = linear_probe.run(
    encode,
    variables,
    source,
    protocol="paper",
    progress=lambda *steps: reported.append(steps),
    **arguments,
  )
  assert figures["linear_top1"] > 98
  assert len(figures["linear_top1_each"]) == 2
  assert len(set(source.seeds)) == 2
  # 70 images are four batches of 16; the last six are dropped.
  assert reported == [(step, 64) for step in range(1, 65)]
  assert figures["test_transform"] == "Resize 9 bicubic, CenterCrop 8"
  again = linear_probe.run(
    encode, variables, source, protocol="paper", **arguments
  )
  assert again == figures


def test_paper_probe_follows_a_plain_loop(variables, monkeypatch):
  source = FakeSource()
  layers = []
  count = linear_layer.count_correct
  monkeypatch.setattr(
    linear_layer,
    "count_correct",
    lambda layer, *rest: layers.append(layer) or count(layer, *rest),
  )
  figures = linear_probe.run_paper(
    encode,
    variables,
    source,
    image_size=8,
    epochs=2,
    batch_size=32,
    repetitions=1,
    learning_rate=0.5,
    seed=3,
    **PIXELS,
  )
  seed = linear_layer.repetition_seed(3, 0)
  weights_key, view_key = jax.random.split(jax.random.key(seed))
  layer = linear_layer.initial_layer(weights_key, 16, 3)
  optimizer = optax.sgd(optax.cosine_decay_schedule(0.5, 4), momentum=0.9)
  state = optimizer.init(layer)
  view = augment.View(
    size=8,
    scale=(0.08, 1.0),
    interpolation="bicubic",
    flip=0.5,
    jitter=(0.0, 0.0, 0.0, 0.0),
    grayscale=0.0,
    **PIXELS,
  )

  @jax.jit
  def slope(layer, key, images, labels):
    inputs = encode(variables, augment.random_view(key, images, view))
    return jax.grad(loss)(layer, inputs, labels)

  def loss(layer, inputs, labels):
    logits = inputs @ layer["kernel"] + layer["bias"][None]
    log_odds = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.sum(log_odds * jax.nn.one_hot(labels, 3), axis=1))

  stream = FakeSource().batches(batch_size=32, seed=seed)
  for step in range(4):
    batch = next(stream)
    key = jax.random.fold_in(view_key, step)
    gradient = slope(layer, key, batch["image"], batch["label"])
    updates, state = optimizer.update(gradient, state)
    layer = optax.apply_updates(layer, updates)
  for name in layer:
    np.testing.assert_allclose(
      layers[0][name], layer[name], rtol=1e-3, atol=1e-5
    )
  count = figures["linear_top1"] * 37 / 100
  assert count == pytest.approx(round(count))
  assert figures["num_test"] == 37 and figures["linear_top1_std"] == 0.0


def test_paper_probe_takes_a_small_set_as_one_batch_on_eight_devices(variables):
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
  spec = jax.sharding.PartitionSpec
  place = functools.partial(
    jax.device_put, device=jax.sharding.NamedSharding(mesh, spec("batch"))
  )
  replicated = jax.device_put(
    variables, jax.sharding.NamedSharding(mesh, spec())
  )
  traces = []

  def counted(variables, images):
    traces.append(images.shape)
    return encode(variables, images)

  arguments = {"image_size": 8, "epochs": 5, "repetitions": 2, **PIXELS}
  eight = linear_probe.run_paper(
    counted, replicated, FakeSource(train=40), place=place, **arguments
  )
  # Once for the test features, once for the step of both repetitions.
  assert len(traces) == 2
  assert eight["batch_size"] == 40 and eight["num_train"] == 40
  one = linear_probe.run_paper(
    encode, variables, FakeSource(train=40), **arguments
  )
  # Rounding may turn one of 37 answers.
  assert abs(eight["linear_top1"] - one["linear_top1"]) < 3


def test_run_dispatches_and_detects_a_changed_encoder(variables):
  source = FakeSource()
  run = functools.partial(
    linear_probe.run, encode, variables, source, image_size=8, **PIXELS
  )
  assert run(protocol="none") == {"protocol": "none"}
  with pytest.raises(UsageError, match="'quick'.*paper, fast, none"):
    run(protocol="quick")
  figures = run(protocol="fast", epochs=5)
  assert figures["linear_top1"] > 98 and figures["batch_size"] == 70
  train, test = (
    features.extract(encode, variables, source, split, batch_size=16, **PIXELS)
    for split in ("train", "test")
  )
  cached = run(protocol="fast", epochs=5, train=train, test=test)
  assert cached["linear_top1"] == figures["linear_top1"]

  def spoil(done, total):
    variables["kernel"][0] += 1e-3

  for protocol in ("paper", "fast"):
    batches = source.evaluation_batches

    def spoiling(split, batch_size, batches=batches):
      spoil(0, 0)
      return batches(split, batch_size)

    source.evaluation_batches = spoiling
    with pytest.raises(RuntimeError, match=f"{protocol} probe changed"):
      run(protocol=protocol, epochs=1, batch_size=64)
