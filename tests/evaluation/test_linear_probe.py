"""Both protocols of the linear probe, against a plain loop."""

import functools

from evaluation_helpers import (
  PIXELS,
  FakeSource,
  encode,
  make_variables,
)
import jax
import numpy as np
import pytest

from essl_jax import augment
from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import (
  classifier,
  features,
  fitting,
  linear_layer,
  probe,
)
from essl_jax.evaluation.recipe import Recipe
from essl_jax.storage.preemption import Stopped

VIEW = classifier.train_view(8, **PIXELS)


@pytest.fixture
def variables():
  return make_variables()


def extract(variables, source, split, resize=None):
  return features.extract(
    encode, variables, source, split, batch_size=16, resize=resize, **PIXELS
  )


def make_setup(mesh=None, **fields):
  """Makes the setup, on one device by default."""
  mesh = mesh or parallel.make_mesh(jax.devices()[:1])
  return classifier.Setup(VIEW, mesh, **fields)


def run_paper(variables, source, *, recipe, encode=encode, **arguments):
  test = extract(make_variables(), source, "test", (9, 8))
  options = {
    name: arguments.pop(name)
    for name in ("progress", "save_every_epochs")
    if name in arguments
  }
  return probe.run_paper(
    encode,
    variables,
    source,
    test,
    recipe=recipe,
    setup=make_setup(**arguments),
    **options,
  )


def test_paper_probe_end_to_end(variables):
  source = FakeSource()
  reported = []
  arguments = {"recipe": Recipe(epochs=8, batch_size=16, repetitions=2)}
  figures = run_paper(
    variables,
    source,
    progress=lambda *steps: reported.append(steps),
    circumstances={"data": "fake"},
    **arguments,
  )
  assert figures["linear_top1"] > 98
  assert len(figures["linear_top1_each"]) == 2
  assert len(set(source.seeds)) == 2
  # 70 images are four batches of 16; the last six are dropped.
  assert reported == [(step, 64) for step in range(1, 65)]
  assert figures["data"] == "fake" and figures["epochs"] == 8
  assert figures["augmentation"].startswith("RandomResizedCrop 8 bicubic")
  again = run_paper(variables, source, **arguments)
  assert figures == again | {"data": "fake"}


def numpy_rate(recipe, step, per_epoch):
  """The learning rate of a step."""
  if recipe.update_rate_every == "epoch":
    step -= step % per_epoch
  total = recipe.epochs * per_epoch
  return recipe.learning_rate * (1 + np.cos(np.pi * step / total)) / 2


def plain_loop(variables, recipe, seed, classes=3):
  """The layer that a probe of FakeSource should end with, in NumPy."""
  seed = fitting.repetition_seed(seed, 0)
  weights_key, view_key = jax.random.split(jax.random.key(seed))
  layer = linear_layer.initial_layer(
    weights_key, 16, classes, recipe.initial_std
  )
  layer = {name: np.asarray(x, np.float64) for name, x in layer.items()}
  velocity = {name: np.zeros_like(x) for name, x in layer.items()}
  view = augment.View(
    size=8,
    scale=(0.08, 1.0),
    interpolation="bicubic",
    flip=0.5,
    jitter=(0.0, 0.0, 0.0, 0.0),
    grayscale=0.0,
    **PIXELS,
  )
  see = jax.jit(
    lambda key, x: encode(variables, augment.random_view(key, x, view))
  )
  stream = FakeSource().batches(batch_size=recipe.batch_size, seed=seed)
  per_epoch = 70 // recipe.batch_size
  for step in range(recipe.epochs * per_epoch):
    batch = next(stream)
    key = jax.random.fold_in(view_key, step)
    inputs = np.asarray(see(key, batch["image"]), np.float64)
    logits = inputs @ layer["kernel"] + layer["bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True) - np.eye(classes)[batch["label"]]
    gradient = {
      "kernel": inputs.T @ error / len(error),
      "bias": error.mean(0),
    }
    for name in layer:
      slope = gradient[name] + recipe.weight_decay * layer[name]
      size, length = np.linalg.norm(layer[name]), np.linalg.norm(slope)
      if recipe.optimizer == "lars" and size > 0:
        slope = slope * 0.001 * size / length
      velocity[name] = recipe.momentum * velocity[name] + slope
      rate = numpy_rate(recipe, step, per_epoch)
      layer[name] = layer[name] - rate * velocity[name]
  return layer


@pytest.mark.parametrize(
  "recipe",
  [
    Recipe(epochs=2, batch_size=32, learning_rate=0.5, repetitions=1),
    Recipe(
      epochs=3,
      batch_size=32,
      learning_rate=0.3,
      weight_decay=0.1,
      update_rate_every="epoch",
      repetitions=1,
    ),
    Recipe(
      epochs=2,
      batch_size=32,
      learning_rate=100.0,
      optimizer="lars",
      update_rate_every="epoch",
      initial_std=0.01,
      repetitions=1,
    ),
  ],
  ids=["cifar", "barlow_twins", "simsiam"],
)
def test_paper_probe_follows_a_plain_loop(variables, monkeypatch, recipe):
  layers = []
  count = linear_layer.count_correct
  monkeypatch.setattr(
    linear_layer,
    "count_correct",
    lambda layer, *rest: layers.append(layer) or count(layer, *rest),
  )
  figures = run_paper(variables, FakeSource(), recipe=recipe, seed=3)
  expected = plain_loop(variables, recipe, 3)
  for name in expected:
    np.testing.assert_allclose(
      layers[0][name], expected[name], rtol=1e-3, atol=1e-5
    )
  count = figures["linear_top1"] * 37 / 100
  assert count == pytest.approx(round(count))
  assert figures["num_test"] == 37 and figures["linear_top1_std"] == 0.0


def test_paper_probe_takes_a_small_set_as_one_batch_on_eight_devices(variables):
  mesh = parallel.make_mesh()
  traces = []

  def counted(variables, images):
    traces.append(images.shape)
    return encode(variables, images)

  recipe = Recipe(epochs=5, repetitions=2)
  eight = run_paper(
    parallel.replicate(variables, mesh),
    FakeSource(train=43),
    encode=counted,
    recipe=recipe,
    mesh=mesh,
  )
  # One compiled step for both repetitions, of a device's share.
  assert traces == [(5, 8, 8, 3)]
  assert eight["batch_size"] == 40 and eight["num_train"] == 43
  one = run_paper(
    variables,
    FakeSource(train=43),
    recipe=Recipe(epochs=5, batch_size=40, repetitions=2),
  )
  # Rounding may turn one of 37 answers.
  assert abs(eight["linear_top1"] - one["linear_top1"]) < 3
  with pytest.raises(UsageError, match="batch_size 30 .* 8 devices; use 24 or"):
    run_paper(variables, FakeSource(), recipe=Recipe(batch_size=30), mesh=mesh)
  with pytest.raises(UsageError, match="7 training images are too few"):
    run_paper(variables, FakeSource(train=7), recipe=recipe, mesh=mesh)


@pytest.mark.parametrize("stop", [1, 11, 16, 23])
def test_a_stopped_probe_goes_on_bit_for_bit(variables, tmp_path, stop):
  """Two repetitions of 16 steps, stopped anywhere or killed."""
  recipe = Recipe(epochs=4, batch_size=16, repetitions=2, learning_rate=0.05)
  run = functools.partial(run_paper, variables, FakeSource(), recipe=recipe)
  layers = []
  expected = run()
  for error in (Stopped, KeyboardInterrupt):  # the second saves nothing more
    done = []

    def interrupt(number, total, done=done, error=error):
      assert total == 32
      done.append(number)
      if len(done) == stop:
        raise error

    with pytest.raises(error):
      run(workdir=tmp_path, save_every_epochs=1, progress=interrupt)
    path = tmp_path / "probe" / "linear_probe.npz"
    rest = []
    found = run(
      workdir=tmp_path,
      save_every_epochs=1,
      progress=lambda number, _, rest=rest: rest.append(number),
    )
    assert found == expected
    begun = {Stopped: stop, KeyboardInterrupt: (stop - 1) // 4 * 4}[error]
    assert rest == list(range(begun + 1, 33))
    layers.append(np.load(path)["counts"])
    path.unlink()
  np.testing.assert_array_equal(*layers)


def test_what_another_probe_left_is_not_read(variables, tmp_path):
  def run(variables, *, seed=0, **fields):
    steps = []
    recipe = Recipe(epochs=2, batch_size=32, repetitions=1, **fields)
    figures = run_paper(
      variables,
      FakeSource(),
      recipe=recipe,
      seed=seed,
      workdir=tmp_path,
      progress=lambda *step: steps.append(step),
    )
    return len(steps), figures

  steps, figures = run(variables)
  assert steps == 4
  assert run(variables) == (0, figures)  # finished, and not yet cleared away
  other = {"kernel": variables["kernel"] * np.float32(1.5)}
  assert run(other)[0] == run(other, seed=1)[0] == 4
  assert run(variables)[0] == run(variables, learning_rate=1.0)[0] == 4
  (tmp_path / "probe" / "linear_probe.npz").write_bytes(b"half a file")
  assert run(variables) == (4, figures)
