"""Recipes of BYOL, VICReg, MoCo v3 and DINO against their sources' tables."""

import pathlib

import pytest

from essl_jax.config import flags

pytestmark = pytest.mark.quick
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def _load(name):
  return flags.load(str(CONFIGS / name))


# Learning rate, decay, smallest crop, solarize and blur of both views.
SOLO_LEARN = {
  "cifar_byol.py": (1.0, 1e-5, 0.08, (0.0, 0.2), (0.0, 0.0)),
  "cifar_vicreg.py": (0.3, 1e-4, 0.2, (0.1, 0.1), (0.0, 0.0)),
  "cifar_mocov3.py": (0.3, 1e-6, 0.08, (0.0, 0.2), (0.0, 0.0)),
  "cifar_dino.py": (0.3, 1e-6, 0.08, (0.0, 0.2), (0.0, 0.0)),
  "imagenet_byol.py:imagenet100": (0.5, 1e-6, 0.08, (0.0, 0.2), (1.0, 0.1)),
  "imagenet_vicreg.py:imagenet100": (0.3, 1e-4, 0.2, (0.1, 0.1), (0.5, 0.5)),
  "imagenet_mocov3.py:resnet50,imagenet100": (
    *(0.3, 1e-6, 0.08),
    *((0.0, 0.2), (1.0, 0.1)),
  ),
  "imagenet_dino.py:imagenet100": (0.3, 1e-6, 0.08, (0.0, 0.2), (1.0, 0.1)),
}


@pytest.mark.parametrize("name", SOLO_LEARN)
def test_solo_learns_settings(name):
  rate, decay, smallest, solarize, blur = SOLO_LEARN[name]
  config = _load(name)
  optimizer, views = config.optimizer, (config.views.first, config.views.second)
  assert (optimizer.learning_rate, optimizer.weight_decay) == (rate, decay)
  assert optimizer.scale_with_batch and optimizer.clip_rate
  assert (optimizer.name, optimizer.trust_coefficient) == ("lars", 0.02)
  assert (optimizer.warmup_epochs, optimizer.warmup_from) == (10, 3e-5)
  assert optimizer.clip_gradients is None
  assert [x.scale for x in views] == [(smallest, 1.0)] * 2
  assert tuple(x.solarize for x in views) == solarize
  assert tuple(x.blur for x in views) == blur
  for view in views:
    assert (view.jitter, view.jitter_probability) == ((0.4, 0.4, 0.2, 0.1), 0.8)
    assert (view.grayscale, view.flip) == (0.2, 0.5)
  is_cifar = name.startswith("cifar")
  assert (config.epochs, config.batch_size) == (1000 if is_cifar else 400, 256)
  assert (config.encoder.depth, config.encoder.width) == (18, 64)
  assert len(getattr(config.data, "classes", ())) == (0 if is_cifar else 100)


@pytest.mark.parametrize("data", ["cifar", "imagenet100"])
def test_solo_learns_heads(data):
  def load(method):
    if data == "cifar":
      return _load(f"cifar_{method}.py")
    variant = "resnet50,imagenet100" if method == "mocov3" else "imagenet100"
    return _load(f"imagenet_{method}.py:{variant}")

  byol, moco, dino = load("byol"), load("mocov3"), load("dino")
  assert byol.projector.widths == moco.projector.widths == (4096, 256)
  assert byol.predictor_hidden == (4096 if data == "cifar" else 8192)
  assert (moco.predictor_hidden, moco.predictor_norm) == (4096, "none")
  assert moco.temperature == 0.2
  assert (byol.target_decay, moco.target_decay) == (0.99, 0.99)
  assert (dino.target_decay, dino.prototypes) == (0.9995, 4096)
  assert (dino.freeze_epochs, dino.center_momentum) == (1, 0.9)
  temperatures = dino.first_teacher_temperature, dino.teacher_temperature
  assert (dino.student_temperature, *temperatures) == (0.1, 0.04, 0.07)
  assert dino.projector.widths == (2048, 2048, 256)
  vicreg = load("vicreg")
  assert vicreg.projector.widths == (2048, 2048, 2048)
  weights = vicreg.invariance_weight, vicreg.variance_weight
  assert (*weights, vicreg.covariance_weight) == (25, 25, 1)


def test_e_moco_v3_as_others_measured_it():
  config = _load("imagenet_mocov3.py")
  encoder, optimizer = config.encoder, config.optimizer
  assert (encoder.width, encoder.depth, encoder.heads) == (384, 12, 12)
  assert encoder.positions == "sincos" and encoder.frozen_patch_projection
  assert (config.epochs, config.batch_size) == (100, 2048)
  assert (optimizer.name, optimizer.learning_rate) == ("adamw", 3e-4)
  assert (optimizer.scale_with_batch, optimizer.weight_decay) == (False, 0.1)
  assert config.projector.widths == (4096, 4096, 256)
  assert config.predictor_norm == "batch_not_affine"
  assert (config.views.third.size, config.views.third.scale) == (
    96,
    (0.05, 0.14),
  )
  assert (config.target_decay, config.temperature) == (0.99, 0.2)
  assert config.equivariance.weight == 1.0
