"""Batch norms that would see a single value are refused, also users' own.

Such a norm gives its offset alone, whatever the images: a run trains on
constants and says nothing. Right is one line before the first step.
"""

import functools

import evaluation_helpers
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from essl_jax.devices import parallel
from essl_jax.errors import UsageError
from essl_jax.evaluation import classifier, finetune
from essl_jax.evaluation.recipe import Recipe
from essl_jax.models import heads
from essl_jax.models.vit import ViT
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import norms

REFUSED = "would see 1 value of each channel, and it needs 2 or more: do this"


class Renamed(nn.BatchNorm):
  """A norm of a user's own."""


class Normed(nn.Module):
  """A norm, somewhere within."""

  kind: type = nn.BatchNorm
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x, *, train):
    """Images to the same shape."""
    return nn.remat(self._normed, static_argnums=(2,))(self, x, train)

  @staticmethod
  def _normed(module, x, train):
    made = module.kind(axis_name=module.axis_name, name="inner")
    return made(x, use_running_average=not train)


def _train(model, variables, x):
  with norms.checked("do this"):
    return model.apply(variables, x, train=True, mutable=["batch_stats"])


def _variables(model, shape):
  init = functools.partial(model.init, train=False)
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("kind", [nn.BatchNorm, Renamed])
def test_values_are_counted_by_shape(kind):
  """Images and pixels count alike; a channel is normalised by itself."""
  model = Normed(kind)
  for shape in ((1, 5), (1, 1, 1, 5)):
    variables = _variables(model, shape)
    run = functools.partial(_train, model)
    with pytest.raises(UsageError, match=f"batch norm inner {REFUSED}"):
      jax.eval_shape(run, variables, jnp.zeros(shape))
    # With running statistics, one image is as good as many.
    model.apply(
      jax.tree.map(jnp.zeros_like, variables), jnp.zeros(shape), train=False
    )
  for shape in ((2, 5), (1, 1, 2, 5)):
    variables = _variables(model, shape)
    jax.eval_shape(
      functools.partial(_train, model), variables, jnp.zeros(shape)
    )


@pytest.mark.parametrize("devices", [1, 2])
def test_devices_that_share_statistics_count(devices):
  """One image a device is enough for two devices, but not for one alone."""
  mesh = parallel.make_mesh(jax.devices()[:devices])
  images = jax.ShapeDtypeStruct((devices, 5), jnp.float32)
  assert not norms.are_fed(devices, mesh) and norms.are_fed(2 * devices, mesh)
  for axis_name in (None, parallel.AXIS):
    model = Normed(axis_name=axis_name)
    check = functools.partial(
      norms.check_batch,
      functools.partial(_train, model),
      _variables(Normed(), (1, 5)),
      images,
      mesh,
    )
    if axis_name and devices > 1:
      check()
    else:
      with pytest.raises(UsageError, match=REFUSED):
        check()


@pytest.mark.parametrize(
  ("norm", "shape", "refused"),
  [
    (nn.LayerNorm(), (4, 1), "LayerNorm"),
    (nn.LayerNorm(), (4, 2), ""),
    (nn.LayerNorm(reduction_axes=(1, 2)), (4, 1, 1, 5), "LayerNorm"),
    (nn.LayerNorm(reduction_axes=(1, 2)), (4, 2, 1, 5), ""),
    (nn.RMSNorm(), (4, 1), "RMSNorm"),
    (nn.RMSNorm(), (4, 2), ""),
    (nn.GroupNorm(num_groups=4), (4, 4), "GroupNorm"),
    (nn.GroupNorm(num_groups=4), (4, 8), ""),
    (nn.GroupNorm(num_groups=4), (4, 2, 1, 4), ""),
    (nn.GroupNorm(num_groups=None, group_size=1), (4, 1, 1, 4), "GroupNorm"),
    (nn.InstanceNorm(), (4, 1, 1, 5), "InstanceNorm"),
    (nn.InstanceNorm(), (4, 1, 2, 5), ""),
  ],
)
def test_norms_of_an_example_are_counted_too(norm, shape, refused):
  """By the values that they normalise together, also in a user's module."""

  def run(x):
    variables = norm.init(jax.random.key(0), x)
    with norms.checked("unused"):
      return norm.apply(variables, x)

  if not refused:
    jax.eval_shape(run, jnp.zeros(shape))
    return
  with pytest.raises(UsageError, match=f"{refused} .* would see 1 value at a"):
    jax.eval_shape(run, jnp.zeros(shape))


def test_layer_norms_of_one_value_are_refused_at_once(tiny_config):
  """A head of one hidden value would name elements by constants."""
  one = {"equivariance": {"hidden_widths": (32, 1)}}
  with pytest.raises(UsageError, match="hidden_widths must be 2 or more"):
    experiment_lib.build(tiny_config("simclr", **one))
  batch = {"equivariance": {"hidden_widths": (32, 1), "hidden_norm": "batch"}}
  experiment_lib.build(tiny_config("simclr", **batch))
  with pytest.raises(ValueError, match="hidden widths must be 2 or more"):
    heads.MLP((4, 1, 4), norm="layer")
  with pytest.raises(ValueError, match="width must be 2 or more"):
    ViT(image_size=8, patch=4, width=1, heads=1)


VIT = {"name": "vit", "image_size": 16, "patch": 8, "width": 8, "depth": 1}
VIT |= {"heads": 2}
SMALL = {
  "encoder": {"stem": "imagenet", "blocks": (1, 1)}
}  # a pixel is left of 8 x 8
SMALL["views"] = dict.fromkeys(("first", "second", "third"), {"size": 8})
ONE_ELEMENT = {"equivariance": {"all_elements": False}}


@pytest.mark.parametrize(
  ("method", "fields", "refused"),
  [
    ("simsiam", SMALL, "encoder/layer2_0/"),
    ("simclr", {"encoder": VIT}, "projector/norm_0"),
    ("none", SMALL, ""),  # four rotations of an image are four values
    ("none", SMALL | ONE_ELEMENT, "encoder/layer2_0/"),
  ],
)
def test_a_part_of_one_image_is_refused_before_training(
  method, fields, refused, tiny_config
):
  """On one device; eight that share their statistics see eight values."""
  views = dict.fromkeys(("first", "second", "third"), {"size": 16})
  fields = {"views": views, **fields}
  config = tiny_config(method, micro_batches=16, **fields)
  mesh = parallel.make_mesh(jax.devices()[:1])
  if not refused:
    experiment_lib.build(config, mesh=mesh)
    return
  with pytest.raises(UsageError, match=f"batch norm {refused}.*micro_batches"):
    experiment_lib.build(config, mesh=mesh)
  if method == "simclr":
    experiment_lib.build(tiny_config(method, micro_batches=2, **fields))


def test_fine_tuning_one_image_at_a_time_is_refused(monkeypatch):
  """In its first step, before anything is computed."""
  model = Normed()
  variables = jax.tree.map(
    lambda x: jnp.zeros(x.shape), _variables(model, (1, 1, 1, 3))
  )
  source = evaluation_helpers.FakeSource(train=6, size=1)
  mesh = parallel.make_mesh(jax.devices()[:1])
  view = classifier.train_view(1, (0.5,) * 3, (0.25,) * 3)
  features = jnp.zeros((4, 3)), jnp.zeros(4, int)
  run = functools.partial(
    finetune.run,
    model,
    variables,
    source,
    features,
    lambda _: features,
    encoder_learning_rate=0.1,
    setup=classifier.Setup(view, mesh),
  )
  with pytest.raises(UsageError, match="inner .* config.finetune.batch_size"):
    run(recipe=Recipe(epochs=1, batch_size=1, repetitions=1))
