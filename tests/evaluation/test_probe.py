"""The linear probe as an evaluation: small sets, and a changed encoder."""

import types

from evaluation_helpers import PIXELS, FakeSource, encode, make_variables
import jax
import pytest

from essl_jax.devices import parallel
from essl_jax.evaluation import bench as bench_lib
from essl_jax.evaluation import encoding, probe


@pytest.fixture
def variables():
  return make_variables()


@pytest.fixture
def measure(variables, tiny_config):
  """Runs the evaluation on FakeSource."""
  view = {"size": 8, **PIXELS}
  experiment = types.SimpleNamespace(
    config=tiny_config(views={"first": view, "second": view}),
    labelled=FakeSource(),
    encode=lambda found, images: encode(found["params"], images),
    mesh=parallel.make_mesh(jax.devices()[:1]),
  )
  experiment.mapped_encode = experiment.encode
  state = types.SimpleNamespace(params={"encoder": variables}, batch_stats={})

  def run(interrupt=lambda: None, **fields):
    made = encoding.Encoding(experiment)
    bench = bench_lib.Bench(experiment, made, interrupt=interrupt)
    return probe.Probe(repetitions=1, **fields).run(bench, state)

  return run


def test_the_fast_probe_takes_a_small_set_as_one_batch(measure):
  figures = measure(protocol="fast", epochs=5)
  assert figures["linear_top1"] > 98 and figures["batch_size"] == 70
  assert measure(protocol="none") is None


@pytest.mark.parametrize("protocol", ["paper", "fast"])
def test_a_changed_encoder_is_detected(measure, variables, protocol):
  fields = {"protocol": protocol, "epochs": 1, "batch_size": 64}
  assert measure(**fields)["num_test"] == 37

  def spoil():
    variables["kernel"][0] += 1e-3

  with pytest.raises(RuntimeError, match="changed the encoder's variables"):
    measure(spoil, **fields)
