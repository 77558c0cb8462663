"""kNN, feature extraction and linear probes against plain references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from essl_jax import augment
from essl_jax.errors import UsageError
from essl_jax.evaluation import features, knn, linear_probe

PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


class FakeSource:
  """Images whose colour tells the class, in memory."""

  num_classes = 3
  image_shape = (8, 8, 3)

  def __init__(self, train=70, test=37, size=8):
    rng = np.random.default_rng(0)
    self._data = {}
    for split, number in (("train", train), ("test", test)):
      labels = rng.integers(0, 3, number).astype(np.int32)
      images = rng.integers(0, 90, (number, size, size, 3)).astype(np.uint8)
      images[np.arange(number), :, :, labels] += 120
      self._data[split] = images, labels
    self.seeds: list[int] = []

  def num_examples(self, split):
    """Number of images."""
    return len(self._data[split][0])

  def batches(self, *, batch_size, seed, start_step=0):
    """Endless, shuffled, without the smaller last batch."""
    self.seeds.append(seed)
    images, labels = self._data["train"]
    rng = np.random.default_rng(seed)
    while True:
      order = rng.permutation(len(images))
      for first in range(0, len(order) - batch_size + 1, batch_size):
        rows = order[first : first + batch_size]
        yield {"image": images[rows], "label": labels[rows]}

  def evaluation_batches(self, split, batch_size):
    """In order, the last smaller."""
    images, labels = self._data[split]
    for first in range(0, len(images), batch_size):
      rows = slice(first, first + batch_size)
      yield {"image": images[rows], "label": labels[rows]}


def encode(variables, images):
  """A 3x3 convolution and the mean over positions."""
  dimensions = ("NHWC", "HWIO", "NHWC")
  maps = jax.lax.conv_general_dilated(
    images, variables["kernel"], (1, 1), "SAME", dimension_numbers=dimensions
  )
  return jnp.mean(jax.nn.relu(maps), axis=(1, 2))


@pytest.fixture
def variables():
  rng = np.random.default_rng(1)
  return {"kernel": rng.standard_normal((3, 3, 3, 16)).astype(np.float32)}


def clusters(number, width=32, classes=7, spread=0.1, seed=0):
  """Separable features and labels."""
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).standard_normal((classes, width))
  labels = rng.integers(0, classes, number)
  noise = spread * rng.standard_normal((number, width))
  return (centres[labels] + noise).astype(np.float32), labels


def knn_scores(bank, labels, queries, num_classes, k, temperature):
  """Class scores by brute force in float64, relative to the nearest."""
  bank, queries = (
    x / np.linalg.norm(x, axis=1, keepdims=True)
    for x in (bank.astype(np.float64), queries.astype(np.float64))
  )
  scores = np.zeros((len(queries), num_classes))
  for row, similarities in enumerate(queries @ bank.T):
    for index in np.argsort(-similarities, kind="stable")[:k]:
      weight = np.exp((similarities[index] - similarities.max()) / temperature)
      scores[row, labels[index]] += weight
  return scores


@pytest.mark.parametrize(("k", "temperature"), [(200, 0.1), (20, 0.07)])
def test_knn_matches_golden(golden, k, temperature):
  data = golden("knn")
  arguments = data["bank"], data["labels"], data["queries"]
  ranked = np.asarray(
    knn.predict(*arguments, num_classes=10, k=k, temperature=temperature)
  )
  expected = data[f"ranked_classes_k{k}_t{temperature}"]
  scores = knn_scores(*arguments, 10, k, temperature)
  for row, found, right in zip(scores, ranked, expected, strict=True):
    voted = int((row > 0).sum())
    np.testing.assert_array_equal(found[:voted], right[:voted])
    assert set(found[voted:]) == set(right[voted:])
    # Classes without a neighbour are tied: the lower comes first.
    assert list(found[voted:]) == sorted(found[voted:])


@pytest.mark.parametrize("limit", [1, 3 * 211, 2**24])
def test_knn_matches_brute_force_at_any_block(monkeypatch, limit):
  monkeypatch.setattr(knn, "_BLOCK_ELEMENTS", limit)
  knn._predict.clear_cache()
  rng = np.random.default_rng(2)
  bank = rng.standard_normal((211, 19)).astype(np.float32)
  queries = 7 * rng.standard_normal((53, 19)).astype(np.float32)
  labels = rng.integers(0, 6, 211)
  ranked = knn.predict(
    bank, labels, queries, num_classes=6, k=31, temperature=0.07
  )
  assert ranked.shape == (53, 6) and ranked.dtype == jnp.int32
  expected = np.argsort(
    -knn_scores(bank, labels, queries, 6, 31, 0.07), axis=1, kind="stable"
  )
  np.testing.assert_array_equal(ranked, expected)
  knn._predict.clear_cache()


def test_knn_blocks_bound_memory_and_cover_all_queries():
  for number, row in (
    (10_000, 50_000),
    (1, 2**30),
    (7, 3),
    (50_000, 1_281_167),
  ):
    size = knn._block_size(number, row)
    assert size == 1 or size * row * 4 <= 256e6
    count = -(-number // size)
    assert 0 <= count * size - number < count


def test_knn_under_jit_vmap_and_bfloat16():
  bank, labels = clusters(60)
  queries, _ = clusters(10, spread=0.5, seed=1)
  predict = functools.partial(knn.predict, num_classes=7, k=9)
  expected = predict(bank, labels, queries, temperature=0.1)
  jitted = jax.jit(lambda *a: predict(*a[:3], temperature=a[3]))
  np.testing.assert_array_equal(jitted(bank, labels, queries, 0.1), expected)
  mapped = jax.vmap(functools.partial(predict, temperature=0.1))(
    jnp.stack([bank, bank[::-1]]),
    jnp.stack([labels, labels[::-1]]),
    jnp.stack([queries, queries]),
  )
  np.testing.assert_array_equal(mapped[0], expected)
  np.testing.assert_array_equal(mapped[1], expected)
  halves = jnp.asarray(bank, jnp.bfloat16), jnp.asarray(queries, jnp.bfloat16)
  low = predict(halves[0], labels, halves[1], temperature=0.1)
  wide = [np.asarray(half, np.float32) for half in halves]
  high = predict(wide[0], labels, wide[1], temperature=0.1)
  np.testing.assert_array_equal(low, high)


def test_knn_survives_tiny_temperature_and_zero_rows():
  bank, labels = clusters(50)
  bank[:3] = 0
  ranked = knn.predict(
    bank, labels, bank, num_classes=7, k=50, temperature=1e-4
  )
  np.testing.assert_array_equal(ranked[3:, 0], labels[3:])


def test_knn_refuses_what_does_not_fit():
  bank, labels = clusters(10)
  predict = functools.partial(knn.predict, num_classes=7, k=3, temperature=0.1)
  with pytest.raises(ValueError, match=r"k=11 .* 10"):
    predict(bank, labels, bank, k=11)
  with pytest.raises(ValueError, match=r"\(10, 32\).*\(10, 5\)"):
    predict(bank, labels, bank[:, :5])
  with pytest.raises(ValueError, match=r"\(9,\)"):
    predict(bank, labels[:9], bank)
  with pytest.raises(ValueError, match="float32"):
    predict(bank, labels.astype(np.float32), bank)
  with pytest.raises(ValueError, match="temperature=0"):
    predict(bank, labels, bank, temperature=0)
  with pytest.raises(ValueError, match=r"\(32,\)"):
    predict(bank, labels, bank[0])


def test_knn_run_counts_exactly_and_reports_clipped_k():
  bank, labels = clusters(40)
  queries, answers = clusters(33, seed=1)
  answers[:4] = (answers[:4] + 1) % 7
  figures = knn.run(
    bank, labels, queries, answers, num_classes=7, k=200, temperature=0.1
  )
  assert figures["knn_top1"] == 100 * 29 / 33
  assert figures["knn_top5"] >= figures["knn_top1"]
  assert figures["k"] == 40
  assert figures["bank_size"] == 40 and figures["num_queries"] == 33
  with pytest.raises(ValueError, match="not finite"):
    knn.run(
      bank, labels, queries * np.nan, answers, num_classes=7, k=1, temperature=1
    )
  with pytest.raises(ValueError, match=r"\[0, 3\), got 0 to 6"):
    knn.run(bank, labels, queries, answers, num_classes=3, k=1, temperature=1)


def test_extract_sees_every_image_once_with_one_compilation(variables):
  source = FakeSource()
  traces = []

  def counted(variables, images):
    traces.append(images.shape)
    return encode(variables, images)

  found, labels = features.extract(
    counted, variables, source, "test", batch_size=16, **PIXELS
  )
  assert traces == [(16, 8, 8, 3)]
  images, expected_labels = source._data["test"]
  inputs = (images / np.float32(255) - 0.5) / np.float32(0.25)
  expected = encode(variables, jnp.asarray(inputs, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(labels, expected_labels)
  assert found.dtype == np.float32 and labels.dtype == np.int32


def test_extract_on_eight_devices_equals_one(variables):
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
  spec = jax.sharding.PartitionSpec
  place = functools.partial(
    jax.device_put, device=jax.sharding.NamedSharding(mesh, spec("batch"))
  )
  replicated = jax.device_put(
    variables, jax.sharding.NamedSharding(mesh, spec())
  )
  extract = functools.partial(
    features.extract, split="test", batch_size=16, **PIXELS
  )
  one, _ = extract(encode, variables, FakeSource())
  eight, _ = extract(encode, replicated, FakeSource(), place=place)
  np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)


def test_extract_resizes_and_refuses_bad_features(variables):
  source = FakeSource(size=12)
  extract = functools.partial(
    features.extract, source=source, split="test", batch_size=64, **PIXELS
  )
  shapes = []

  def recorded(variables, images):
    shapes.append(images.shape)
    return encode(variables, images)

  extract(recorded, variables, resize=(9, 8))
  assert shapes == [(64, 8, 8, 3)]
  with pytest.raises(ValueError, match=r"\(64, 8, 8, 3\)"):
    extract(lambda variables, images: images, variables, resize=(9, 8))
  with pytest.raises(ValueError, match="not finite"):
    extract(lambda *given: encode(*given) / 0.0 * 0.0, variables)
  source.num_examples = lambda split: 38
  with pytest.raises(ValueError, match="37 examples, promised 38"):
    extract(encode, variables)


def test_fingerprint_sees_values_names_and_dtypes(variables):
  kernel = variables["kernel"]
  changed = kernel.copy()
  changed[0, 0, 0, 0] = np.nextafter(changed[0, 0, 0, 0], 9)
  others = (
    {"kernel": changed},
    {"weight": kernel},
    {"kernel": kernel.view(np.int32)},
    {"kernel": kernel.reshape(-1)},
  )
  prints = {features.fingerprint(other) for other in others}
  assert len(prints) == 4
  same = features.fingerprint({"kernel": jnp.asarray(kernel)})
  assert same == features.fingerprint(variables) and same not in prints


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_fast_probe_separates_features_of_any_scale(scale):
  train, test = clusters(700), clusters(203, seed=1)
  scales = scale * np.logspace(-2, 2, 32, dtype=np.float32)
  figures = linear_probe.fit_features(
    train[0] * scales + 3 * scale,
    train[1],
    test[0] * scales + 3 * scale,
    test[1],
    num_classes=7,
    epochs=20,
  )
  assert figures["linear_top1"] > 98
  assert figures["linear_top5"] >= figures["linear_top1"]


def test_fast_probe_is_at_chance_on_random_labels():
  rng = np.random.default_rng(4)
  train, test = (rng.standard_normal((500, 16)) for _ in range(2))
  train_labels, test_labels = (rng.integers(0, 5, 500) for _ in range(2))
  figures = linear_probe.fit_features(
    train, train_labels, test, test_labels, num_classes=5, epochs=5
  )
  # Four standard deviations of a binomial around one in five.
  assert abs(figures["linear_top1"] - 20) < 7.2
  assert "linear_top5" not in figures


def test_fast_probe_follows_a_plain_loop_with_a_smaller_last_batch():
  train, labels = clusters(23, width=6, spread=1.0)
  key = jax.random.key(5)
  schedule = {"epochs": 3, "batch_size": 10}
  layer = linear_probe._fit(
    key, train, jnp.asarray(labels), 0.7, 0.9, 0.01, num_classes=7, **schedule
  )
  weights_key, order_key = jax.random.split(key)
  expected = linear_probe._initial_layer(weights_key, 6, 7)
  expected = {name: np.asarray(x, np.float64) for name, x in expected.items()}
  assert np.abs(expected["kernel"]).max() <= 6**-0.5
  velocity = {name: np.zeros_like(x) for name, x in expected.items()}
  step = 0
  for epoch in range(3):
    order = jax.random.permutation(jax.random.fold_in(order_key, epoch), 23)
    for first in (0, 10, 20):
      rows = np.asarray(order)[first : first + 10]
      logits = train[rows] @ expected["kernel"] + expected["bias"][None]
      odds = np.exp(logits - logits.max(1, keepdims=True))
      error = odds / odds.sum(1, keepdims=True) - np.eye(7)[labels[rows]]
      gradient = {
        "kernel": train[rows].T @ error / len(rows),
        "bias": error.mean(0),
      }
      rate = 0.35 * (1 + np.cos(np.pi * step / 9))
      for name in expected:
        slope = gradient[name] + 0.01 * expected[name]
        velocity[name] = 0.9 * velocity[name] + slope
        expected[name] = expected[name] - rate * velocity[name]
      step += 1
  for name in expected:
    np.testing.assert_allclose(
      layer[name], expected[name], rtol=1e-4, atol=1e-5
    )


def test_fast_probe_is_exact_deterministic_and_varies_between_repetitions():
  train, test = clusters(300, spread=1.5), clusters(67, spread=1.5, seed=1)
  fit = functools.partial(
    linear_probe.fit_features, *train, *test, num_classes=7, epochs=2
  )
  first, again, other = (fit(repetitions=4, seed=seed) for seed in (0, 0, 1))
  assert first == again
  assert first["linear_top1_each"] != other["linear_top1_each"]
  each = first["linear_top1_each"]
  assert len(each) == 4 and len(set(each)) > 1
  counts = np.array(each) * 67 / 100
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
  assert first["linear_top1"] == pytest.approx(np.mean(each))
  assert first["linear_top1_std"] == pytest.approx(np.std(each, ddof=1))
  assert first["protocol"] == "fast" and first["num_test"] == 67


def test_counting_agrees_with_numpy_and_breaks_ties_downwards():
  rng = np.random.default_rng(6)
  layer = {
    "kernel": jnp.asarray(rng.standard_normal((4, 9)), jnp.float32),
    "bias": jnp.asarray(rng.standard_normal(9), jnp.float32),
  }
  inputs = rng.standard_normal((41, 4)).astype(np.float32)
  labels = rng.integers(0, 9, 41)
  logits = inputs @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
  ranked = np.argsort(-logits, axis=1)
  hits = ranked == labels[:, None]
  found = linear_probe._count_correct(layer, inputs, labels)
  assert found == (hits[:, :1].sum(), hits[:, :5].sum())
  flat = jax.tree.map(jnp.zeros_like, layer)
  found = linear_probe._count_correct(flat, inputs, labels)
  assert found == ((labels < 1).sum(), (labels < 5).sum())
  with pytest.raises(ValueError, match="diverged"):
    linear_probe._count_correct(
      jax.tree.map(lambda x: x * jnp.nan, layer), inputs, labels
    )


def test_fit_features_refuses_what_does_not_fit():
  train, test = clusters(20), clusters(10)
  fit = functools.partial(linear_probe.fit_features, num_classes=7)
  with pytest.raises(ValueError, match=r"train .*\(20, 32\) and \(19,\)"):
    fit(train[0], train[1][1:], *test)
  with pytest.raises(ValueError, match=r"\(20, 32\).*\(10, 31\)"):
    fit(*train, test[0][:, 1:], test[1])
  with pytest.raises(ValueError, match=r"\[0, 5\)"):
    fit(*train, *test, num_classes=5)
  with pytest.raises(ValueError, match="epochs=0"):
    fit(*train, *test, epochs=0)


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
  count = linear_probe._count_correct
  monkeypatch.setattr(
    linear_probe,
    "_count_correct",
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
  seed = linear_probe._repetition_seed(3, 0)
  weights_key, view_key = jax.random.split(jax.random.key(seed))
  layer = linear_probe._initial_layer(weights_key, 16, 3)
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
