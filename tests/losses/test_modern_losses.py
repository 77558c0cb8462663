"""VICReg and DINO: golden values, single terms, centers and wrong inputs."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from essl_jax import losses
from essl_jax.devices import parallel

pytestmark = pytest.mark.quick


def _assert_close(actual, expected, relative=1e-4):
  scale = np.max(np.abs(expected))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)


@pytest.mark.parametrize(
  ("name", "weights"),
  [("vicreg", (25, 25, 1)), ("vicreg_sim10_var10_cov2", (10, 10, 2))],
)
def test_golden_vicreg(golden, name, weights):
  """Checks value and gradients, and each term alone."""
  file = golden("modern_losses")
  pair = file["z1"], file["z2"]
  names = ("invariance_weight", "variance_weight", "covariance_weight")
  make = lambda x: functools.partial(
    losses.vicreg, **dict(zip(names, x, strict=True))
  )
  value, gradients = jax.jit(jax.value_and_grad(make(weights), (0, 1)))(*pair)
  np.testing.assert_allclose(value, file[f"{name}_loss"], rtol=1e-4)
  _assert_close(gradients[0], file[f"{name}_grad_z1"])
  _assert_close(gradients[1], file[f"{name}_grad_z2"])
  for i, part in enumerate(("invariance", "variance", "covariance")):
    alone = make(np.eye(3)[i])(*pair)
    np.testing.assert_allclose(alone, file[f"vicreg_{part}"], rtol=1e-4)


@pytest.mark.parametrize("crops", [2, 6])
def test_golden_dino(golden, crops):
  """Checks value and gradient of the fourth epoch, and the center's update."""
  file = golden("modern_losses")
  given = {
    key: file[f"dino_{crops}crops_{key}"] for key in ("student", "teacher")
  }
  center = file["dino_center_before"]
  loss = functools.partial(
    losses.dino,
    student_temperature=0.1,
    teacher_temperature=file["dino_teacher_temperatures"][3],
  )
  gradient = jax.jit(jax.value_and_grad(lambda x, y, c: loss(x, y, center=c)))
  value, found = gradient(given["student"], given["teacher"], center)
  np.testing.assert_allclose(value, file[f"dino_{crops}crops_loss"], rtol=1e-4)
  _assert_close(found, file[f"dino_{crops}crops_grad_student"])
  moved = jax.jit(losses.update_center)(center, given["teacher"], momentum=0.9)
  np.testing.assert_allclose(
    moved, file[f"dino_{crops}crops_center_after"], rtol=1e-4, atol=1e-6
  )
  flat = losses.update_center(center[0], given["teacher"], momentum=0.9)
  np.testing.assert_allclose(flat, moved[0], rtol=1e-6)


@pytest.mark.parametrize("check_vma", [False, True])
def test_center_is_the_mean_over_devices(golden, check_vma):
  """After a step, every device has the center that one device computes."""
  file = golden("modern_losses")
  mesh = parallel.make_mesh(jax.devices()[:4])
  mapped = jax.shard_map(
    lambda center, teacher: losses.update_center(
      center, teacher, momentum=0.9, axis_name=parallel.AXIS
    ),
    mesh=mesh,
    in_specs=(P(), P(parallel.AXIS)),
    out_specs=P(),
    check_vma=check_vma,
  )
  moved = mapped(file["dino_center_before"], file["dino_2crops_teacher"])
  np.testing.assert_allclose(
    moved, file["dino_2crops_center_after"], rtol=1e-4, atol=1e-6
  )


def test_center_of_explicit_shardings():
  """Sharded scores need no axis name; the center stays whole."""
  mesh = jax.make_mesh((4,), ("a",), devices=jax.devices()[:4])
  teacher = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  center = np.linspace(-1, 1, 6, dtype=np.float32)
  expected = losses.update_center(center, teacher, momentum=0.9)
  placed = jax.device_put(teacher, NamedSharding(mesh, P("a")))
  update = functools.partial(losses.update_center, momentum=0.9)
  for run in (update, jax.jit(update)):
    np.testing.assert_allclose(run(center, placed), expected, rtol=1e-5)


def test_wrong_inputs_of_dino_are_named():
  z = jnp.zeros((4, 8))
  options = {"student_temperature": 0.1, "teacher_temperature": 0.04}
  for student, teacher in ((z[:2], z), (z, z[:3]), (z, z[:, :4]), (z[0], z)):
    with pytest.raises(ValueError, match=r"student must be \[S N, K\]"):
      losses.dino(student, teacher, center=z[0], **options)
  with pytest.raises(ValueError, match=r"center must be \[8\] or \[1, 8\]"):
    losses.dino(z, z, center=z[0, :3], **options)
  for name in options:
    with pytest.raises(ValueError, match=f"{name} must be finite and above 0"):
      losses.dino(z, z, center=z[0], **(options | {name: 0.0}))
  with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\], got 2"):
    losses.update_center(z[0], z, momentum=2)
  with pytest.raises(ValueError, match=r"teacher must be \[M, K\]"):
    losses.update_center(z[0], z[0], momentum=0.9)
  for name in ("invariance", "variance", "covariance"):
    weights = dict.fromkeys(("invariance", "variance", "covariance"), 1)
    given = {f"{k}_weight": x for k, x in (weights | {name: -1}).items()}
    with pytest.raises(ValueError, match=f"{name}_weight must be finite and"):
      losses.vicreg(z, z, **given)
