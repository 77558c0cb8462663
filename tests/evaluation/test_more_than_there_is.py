"""Configs that need more images, memory or classes than there are.

One rule for all evaluations: refused before training, in one line that names
the field and how many there are. Nothing is taken smaller without a word.
"""

import dataclasses

import jax
import numpy as np
import pytest

from essl_jax.data import ArraySource
from essl_jax.devices import memory, parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import bench as bench_lib
from essl_jax.training import checks
from essl_jax.training import experiment as experiment_lib


def _build(config, labels=None, number=24):
  images = np.zeros((number, 16, 16, 3), np.uint8)
  labels = np.arange(number) % 3 if labels is None else labels
  source = ArraySource(images, labels, images, labels)
  mesh = parallel.make_mesh(jax.devices()[:1])
  return experiment_lib.build(config, source, mesh)


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"batch_size": 25}, "config.batch_size 25 is more than the 24 images of"),
    ({"knn": {"k": 25}}, "config.knn.k 25 is more than the 24 images of the b"),
    ({"knn": {"k": (5, 9), "bank_images": 8}}, "knn.k 9 is more than the 8"),
    (
      {"probe": {"batch_size": 25}},
      "probe.batch_size 25 is more than the 24 t",
    ),
    (
      {"probe": {"batch_size": 25, "protocol": "paper"}},
      "probe.batch_size 25 is more than the 24 training images",
    ),
    ({"epochs": 10**6, "batch_size": 2}, ""),  # 12 million steps
  ],
)
def test_more_than_there_is_is_refused(fields, expected, tiny_config):
  config = tiny_config(**{"probe": {"batch_size": 24}} | fields)
  if not expected:
    bench_lib.make(_build(config))
    return
  with pytest.raises(UsageError, match=expected) as error:
    bench_lib.make(_build(config))
  assert "\n" not in str(error.value)


def test_fine_tuning_on_fewer_labels_than_a_batch_is_refused(tiny_config):
  fields = {"mode": "finetune", "finetune": {"labels": 0.5, "batch_size": 13}}
  experiment = _build(tiny_config(**fields))
  bench = bench_lib.make(experiment)
  with pytest.raises(UsageError, match="batch_size 13 is more than the 12 im"):
    bench.run(bench.evaluations[0], experiment.create_state())


def test_one_class_is_refused_where_labels_matter(tiny_config):
  """Allowed where no part needs classes."""
  labels = np.zeros(24, int)
  probe = {"batch_size": 24}
  with pytest.raises(UsageError, match="Knn needs images of two .* have 1"):
    _build(tiny_config(probe=probe), labels)
  with pytest.raises(UsageError, match="OnlineClassifier needs images of two"):
    _build(tiny_config(probe=probe, online_classifier=True), labels)
  config = dataclasses.replace(tiny_config(), evaluations=("collapse",))
  _build(config, labels)


def test_steps_beyond_counting_are_refused(tiny_config):
  """A run counts them in int32."""
  config = dataclasses.replace(tiny_config(), epochs=10**6, batch_size=2)
  images = np.zeros((5000, 1, 1, 3), np.uint8)
  source = ArraySource(images, np.arange(5000) % 2, images[:2], np.arange(2))
  with pytest.raises(UsageError, match="1000000 of 2500 steps exceed"):
    checks.steps_per_epoch(config, source)


def test_networks_that_no_device_holds_are_refused(tiny_config, monkeypatch):
  """Only shapes are computed: no such memory is allocated."""
  wide = tiny_config(encoder={"width": 10**6}, probe={"batch_size": 24})
  experiment = _build(wide)
  with pytest.raises(UsageError, match="GB, and a device has .* GB: give"):
    checks.check_memory(experiment)
  experiment = _build(tiny_config(probe={"batch_size": 24}))
  checks.check_memory(experiment)
  assert memory.of_device(jax.devices()[0]) > 10**8
  monkeypatch.setattr(memory, "of_device", lambda device: None)
  checks.check_memory(experiment)  # where nobody says how much there is
