"""The kNN classifier against brute force and golden numbers."""

import functools

from evaluation_helpers import (
  clusters,
)
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.devices import parallel
from essl_jax.evaluation import knn, ranking


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
  monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", limit)
  ranking.compiled.cache_clear()
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
  ranking.compiled.cache_clear()


def test_knn_blocks_bound_memory_and_cover_all_queries():
  for number, row in (
    (10_000, 50_000),
    (1, 2**30),
    (7, 3),
    (50_000, 1_281_167),
  ):
    size = ranking.block_size(number, row)
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


def test_several_k_at_once_are_each_k_alone():
  bank, labels = clusters(90, spread=1.5)
  queries, answers = clusters(41, spread=1.5, seed=1)
  run = functools.partial(
    knn.run, bank, labels, queries, answers, num_classes=7, temperature=0.1
  )
  together = run(k=(30, 1, 7, 200))
  assert together["k"] == 30
  alone = {k: run(k=k) for k in (30, 1, 7, 200)}
  assert len({alone[k]["knn_top1"] for k in alone}) > 2
  for top in ("knn_top1", "knn_top5"):
    assert together[top] == alone[30][top]
    for k in (1, 7, 200):
      assert together[f"{top}_k{k}"] == alone[k][top]


@pytest.mark.parametrize("size", [90, 11])
def test_a_bank_over_eight_devices_ranks_as_one(monkeypatch, size):
  """Also where devices hold fewer entries than neighbours, and with ties."""
  monkeypatch.setattr(ranking, "BLOCK_ELEMENTS", 1000)
  ranking.compiled.cache_clear()
  bank, labels = clusters(size, spread=1.0)
  bank[size // 2 :] = bank[: size - size // 2]  # equal, other labels
  queries, answers = clusters(43, spread=1.0, seed=1)
  mesh = parallel.make_mesh()
  assert mesh.size == 8
  arguments = {"num_classes": 7, "temperature": 0.1}
  for ks in ((9,), (200, 1, 20)):
    used = tuple(min(k, size) for k in ks)
    one, eight = (
      ranking.rank(
        jnp.asarray(bank),
        jnp.asarray(labels),
        jnp.asarray(queries),
        0.1,
        num_classes=7,
        ks=used,
        mesh=each,
      )
      for each in (None, mesh)
    )
    for left, right in zip(one, eight, strict=True):
      np.testing.assert_array_equal(left, right)
    ranked = knn.predict(
      bank, labels, queries, k=used[0], mesh=mesh, **arguments
    )
    assert len(ranked.sharding.device_set) == 8
    np.testing.assert_array_equal(ranked, one[0])
    data = bank, labels, queries, answers
    expected = knn.run(*data, k=ks, **arguments)
    assert knn.run(*data, k=ks, mesh=mesh, **arguments) == expected
  ranking.compiled.cache_clear()


def test_explicit_shardings_and_64_bits_change_nothing():
  random = np.random.default_rng(0)
  bank, queries = random.normal(size=(2, 8, 6)).astype(np.float32)
  arrays = bank, np.arange(8) % 3, queries
  predict = functools.partial(knn.predict, num_classes=3, k=4, temperature=0.1)
  expected = predict(*arrays)
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  share = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
  placed = jax.device_put(arrays, share)
  np.testing.assert_array_equal(jax.jit(predict)(*placed), expected)
  with jax.enable_x64(True):
    found = predict(*arrays)
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint32])
def test_labels_that_are_no_class_vote_for_nothing(dtype):
  """None of them wraps, and one device and eight agree."""
  bank, labels = clusters(64, spread=1.0)
  queries, _ = clusters(20, spread=1.0, seed=1)
  wrong = {np.int64: 2**32 + 1, np.int8: -1, np.uint32: 2**32 - 1}[dtype]
  strange = labels.astype(dtype)
  strange[::2] = np.asarray(wrong, dtype)
  arguments = {"num_classes": 200, "k": 15, "temperature": 0.1}
  voting = np.where(np.arange(64) % 2, labels, 250)
  expected = knn.predict(bank, voting, queries, **arguments)
  for mesh in (None, parallel.make_mesh()):
    found = knn.predict(bank, strange, queries, mesh=mesh, **arguments)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(wrong):
  """Such a row would be a neighbour of all queries, or of none."""
  bank, labels = clusters(16, spread=1.0)
  broken = bank.copy()
  broken[3, 1] = wrong
  predict = functools.partial(knn.predict, num_classes=7, k=5, temperature=0.1)
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  share = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
  for place in (np.asarray, jnp.asarray, lambda x: jax.device_put(x, share)):
    with pytest.raises(ValueError, match="bank must be finite"):
      predict(place(broken), labels, bank)
    with pytest.raises(ValueError, match="queries must be finite"):
      predict(bank, labels, place(broken))
  held = jnp.asarray(bank)  # known while queries are traced
  jax.jit(lambda x: predict(held, labels, x))(bank)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, 1e-45, 1e300])
def test_temperatures_are_finite_and_above_0(value):
  bank, labels = clusters(16, spread=1.0)
  with pytest.raises(ValueError, match="must be positive and finite"):
    knn.predict(bank, labels, bank, num_classes=7, k=5, temperature=value)


def test_labels_that_are_no_integers_are_refused():
  bank, labels = clusters(16, spread=1.0)
  with pytest.raises(ValueError, match="query labels must be integers, got fl"):
    knn.run(
      bank, labels, bank, labels + 0.5, num_classes=8, k=5, temperature=0.1
    )
