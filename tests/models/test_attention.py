"""Choice of attention by platform; the GPU kernel itself does not run here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.models import vit
from essl_jax.models.layers import attention


@pytest.fixture
def chosen(monkeypatch):
  """Records which implementations `gpu_attention` asks for on a faked GPU."""
  asked = []
  own = jax.nn.dot_product_attention

  def attend(*arrays, implementation=None):
    asked.append(implementation)
    if implementation == "cudnn" and arrays[0].shape[1] == 3:
      raise NotImplementedError("three tokens")
    return own(*arrays, implementation="xla")

  monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
  monkeypatch.setattr(attention, "has_kernel", lambda: True)
  return asked


def _arrays(dtype, tokens=5, channels=16):
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (2, tokens, 3, channels)
  return [jax.random.normal(key, shape, dtype) for key in keys]


@pytest.mark.parametrize(
  ("dtype", "tokens", "channels", "implementations"),
  [
    ("bfloat16", 5, 16, ["cudnn"]),
    ("float16", 5, 128, ["cudnn"]),
    ("float32", 5, 16, ["xla"]),
    ("bfloat16", 5, 12, ["xla"]),
    ("bfloat16", 5, 136, ["xla"]),
    ("bfloat16", 3, 16, ["cudnn", "xla"]),  # refused by the kernel itself
  ],
)
def test_the_kernel_is_asked_for_what_it_takes(
  chosen, dtype, tokens, channels, implementations
):
  found = attention.gpu_attention(*_arrays(dtype, tokens, channels))
  assert found.shape == (2, tokens, 3, channels)
  assert chosen == implementations


def test_no_kernel_without_a_gpu():
  """Lowering for a GPU works on a machine without one."""
  assert not attention.has_kernel()
  arrays = _arrays("bfloat16")
  np.testing.assert_array_equal(
    attention.gpu_attention(*arrays).astype(jnp.float32),
    jax.nn.dot_product_attention(*arrays).astype(jnp.float32),
  )


@pytest.mark.parametrize(
  ("capability", "fits"),
  [("8.0", True), ("9.0", True), ("10.3", True), ("7.5", False)]
  + [("gfx90a", False), ("", False)],
)
def test_the_kernel_needs_a_new_nvidia_gpu(monkeypatch, capability, fits):
  class Device:
    compute_capability = capability

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
  assert attention.has_kernel() is fits


def test_attention_by_platform():
  for platform in ("gpu", "cuda"):
    assert attention.default_attention(platform) is attention.gpu_attention
  for platform in ("cpu", "tpu", None):
    found = attention.default_attention(platform)
    assert found is jax.nn.dot_product_attention


def test_without_cudnn_the_kernel_is_xlas(monkeypatch):
  """JAX refuses the kernel on this machine without cuDNN, also in gradients."""
  monkeypatch.setattr(attention, "has_kernel", lambda: True)
  arrays = _arrays("bfloat16")
  with pytest.raises((NotImplementedError, RuntimeError)):
    jax.nn.dot_product_attention(*arrays, implementation="cudnn")

  def loss(attend):
    return lambda *x: attend(*x).astype(jnp.float32).sum()

  found, wanted = (
    jax.jit(jax.grad(loss(function)))(*arrays).astype(jnp.float32)
    for function in (attention.gpu_attention, jax.nn.dot_product_attention)
  )
  np.testing.assert_array_equal(found, wanted)


def test_a_vit_lowers_for_gpus_from_here():
  model = vit.ViT(
    image_size=8,
    patch=4,
    width=16,
    depth=1,
    heads=2,
    dtype=jnp.bfloat16,
    dot_product_attention=attention.default_attention("cuda"),
  )
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), x
  )
  run = jax.jit(lambda variables, x: model.apply(variables, x, train=True))
  exported = jax.export.export(run, platforms=["cuda"])(variables, x)
  assert exported.platforms == ("cuda",)
