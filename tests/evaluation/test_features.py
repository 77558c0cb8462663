"""Feature extraction and fingerprints."""

import functools

from evaluation_helpers import (
  PIXELS,
  FakeSource,
  encode,
  make_variables,
)
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.devices import parallel
from essl_jax.evaluation import features


@pytest.fixture
def variables():
  return make_variables()


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
  images, expected_labels = source.data["test"]
  inputs = (images / np.float32(255) - 0.5) / np.float32(0.25)
  expected = encode(variables, jnp.asarray(inputs, jnp.float32))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(labels, expected_labels)
  assert found.dtype == np.float32 and labels.dtype == np.int32


def test_extract_on_eight_devices_equals_one(variables):
  mesh = parallel.make_mesh()
  replicated = parallel.replicate(variables, mesh)
  extract = functools.partial(
    features.extract, split="test", batch_size=16, **PIXELS
  )
  one, _ = extract(encode, variables, FakeSource())
  eight, _ = extract(encode, replicated, FakeSource(), mesh=mesh)
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
  with pytest.raises(FloatingPointError, match="not finite"):
    extract(lambda *given: encode(*given) / 0.0 * 0.0, variables)
  for promised in (36, 38, 200):
    source.num_examples = lambda split, number=promised: number
    message = f"37 examples, but promised {promised}"
    with pytest.raises(ValueError, match=message):
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
