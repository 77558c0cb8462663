"""Models with sharded, mapped, 64-bit and wrong inputs."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from essl_jax.models import heads, resnet, vit
from essl_jax.models.layers import convolution, dense

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((8, 8, 8, 3), np.float32)
FEATURES = RANDOM.random((8, 6), np.float32)
KEYS = jax.random.split(jax.random.key(1), 8)
MODELS = {
  "resnet": (
    functools.partial(resnet.ResNet, width=4, blocks=(1,), stem="cifar"),
    IMAGES,
  ),
  "vit": (
    functools.partial(
      vit.ViT,
      image_size=8,
      patch=4,
      width=8,
      depth=1,
      heads=2,
      stochastic_depth=0.5,
    ),
    IMAGES,
  ),
  "projector": (functools.partial(heads.projector, (8, 4)), FEATURES),
  "predictor": (functools.partial(heads.predictor, 8, 4), FEATURES),
  "head": (functools.partial(heads.transformation_head, (8,), 4), FEATURES),
}


def _loss(name, axis_name=None):
  """Makes `(params, stats, x, keys) -> loss`, the mean over images."""
  model = MODELS[name][0](axis_name=axis_name)

  def loss(params, stats, x, keys):
    options = {"image_keys": keys} if name == "vit" else {}
    out, _ = model.apply(
      {"params": params, **stats},
      x,
      train=True,
      mutable=["batch_stats"],
      **options,
    )
    return jnp.mean(jnp.sum(jnp.sin(out), axis=1))

  return loss


@functools.cache
def _begun(name):
  """Returns parameters, statistics, and one device's loss and gradients."""
  make, x = MODELS[name]
  model = make()
  init = jax.jit(functools.partial(model.init, train=False))
  variables = dict(init(jax.random.key(0), x))
  params = variables.pop("params")
  grad = jax.jit(jax.value_and_grad(_loss(name)))
  return params, variables, grad(params, variables, x, KEYS)


def _assert_close(found, expected):
  for x, y in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_explicit_shardings_change_nothing(name):
  """Compares value and gradients of a batch sharded over `jax.make_mesh`."""
  params, stats, expected = _begun(name)
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  whole, share = NamedSharding(mesh, P()), NamedSharding(mesh, P("a"))
  placed = jax.device_put((params, stats), whole)
  batch = jax.device_put((MODELS[name][1], KEYS), share)
  found = jax.jit(jax.value_and_grad(_loss(name)))(*placed, *batch)
  _assert_close(found, expected)


@pytest.mark.parametrize("name", ["conv", "winograd", "dense"])
def test_layers_for_cpus_work_with_explicit_shardings(name):
  """Compares value and both gradients; 64 channels use Winograd's filtering."""
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  channels = 64 if name == "winograd" else 2
  x = RANDOM.normal(size=(8, 4, 4, channels)).astype(np.float32)
  kernel = RANDOM.normal(size=(3, 3, channels, channels)).astype(np.float32)
  apply = functools.partial(
    convolution.cpu_conv,
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  if name == "dense":
    x, kernel = (
      x.reshape(8, 32),
      RANDOM.normal(size=(32, 32)).astype(np.float32),
    )
    plain = (((1,), (0,)), ((), ()))
    apply = lambda x, k: dense.cpu_dot_general(x, k, plain)
  loss = jax.jit(
    jax.value_and_grad(lambda *pair: jnp.mean(apply(*pair) ** 2), (0, 1))
  )
  whole, share = NamedSharding(mesh, P()), NamedSharding(mesh, P("a"))
  found = loss(jax.device_put(x, share), jax.device_put(kernel, whole))
  _assert_close(found, loss(x, kernel))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", ["tracked", "untracked", "vmap"])
def test_mapped_models_are_one_device(name, way):
  """Batch norm is global; gradients are taken as in `losses`' docstring."""
  params, stats, expected = _begun(name)
  local = _loss(name, axis_name="a")

  def mean_loss(*args):
    return lax.pmean(local(*args), "a")

  def averaged(*args):
    return lax.pmean(jax.value_and_grad(local)(*args), "a")

  batch = MODELS[name][1], KEYS
  if way == "vmap":
    split = [x.reshape(4, 2, *x.shape[1:]) for x in batch]
    mapped = jax.vmap(averaged, (None, None, 0, 0), axis_name="a")
    found = jax.jit(mapped)(params, stats, *split)
    found = jax.tree.map(lambda x: x[0], found)
  else:
    tracked = way == "tracked"
    mapped = jax.shard_map(
      jax.value_and_grad(mean_loss) if tracked else averaged,
      mesh=jax.sharding.Mesh(jax.devices()[:4], ("a",)),
      in_specs=(P(), P(), P("a"), P("a")),
      out_specs=P(),
      check_vma=tracked,
    )
    found = jax.jit(mapped)(params, stats, *batch)
  _assert_close(found, expected)


@pytest.mark.parametrize("name", MODELS)
def test_64_bits_give_what_32_give(name):
  """Parameters, statistics and outputs stay float32; draws do not change."""
  params, stats, expected = _begun(name)
  make, x = MODELS[name]
  with jax.enable_x64(True):
    init = jax.jit(functools.partial(make().init, train=False))
    variables = dict(init(jax.random.key(0), x))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {
      np.dtype(np.float32)
    }
    again = variables.pop("params")
    found = jax.jit(jax.value_and_grad(_loss(name)))(again, variables, x, KEYS)
    assert found[0].dtype == np.float32
  _assert_close((again, variables), (params, stats))
  _assert_close(found, expected)


@pytest.mark.parametrize("name", MODELS)
def test_whole_numbers_are_refused(name):
  """uint8 images are not normalised: the model would see 0 to 255."""
  make, x = MODELS[name]
  params, stats, _ = _begun(name)
  with pytest.raises(ValueError, match="must be floating point, got uint8"):
    make().apply({"params": params, **stats}, x.astype(np.uint8), train=False)


def test_wrong_number_of_image_keys_is_refused():
  """One key for eight images would give all of them the same draw."""
  params, stats, _ = _begun("vit")
  for wrong in (KEYS[:1], KEYS[0]):
    with pytest.raises(ValueError, match="one key for each of 8 images, got"):
      _loss("vit")(params, stats, IMAGES, wrong)
