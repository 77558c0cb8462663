"""Steps lower for TPUs and GPUs on a CPU; their arithmetic is counted."""

import dataclasses
import re

import aot_cases
import flops_helpers
import jax
import jax.numpy as jnp
import jaxpr_flops
import numpy as np
import pytest

from essl_jax.config import parts
from essl_jax.devices import parallel
from essl_jax.models.layers import convolution, dense
from essl_jax.training import experiment as experiment_lib
from essl_jax.training import networks as networks_lib

CONVOLUTIONS = 3  # the stem and two of the block


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("method", parts.METHOD.names())
def test_steps_lower_for_tpu_and_cuda(tiny_config, method, platform):
  config = tiny_config(method, precision="bfloat16")
  mesh = parallel.make_mesh(jax.devices())
  source = aot_cases.Source(4, (16, 16, 3), False, 64)
  experiment = experiment_lib.build(config, source, mesh)
  # With what is chosen for accelerators: the mesh is of CPUs.
  networks = networks_lib.make_networks(
    config,
    experiment.networks.terms,
    axis_name=parallel.AXIS,
    conv_general_dilated=convolution.default_conv(platform),
    dot_general=dense.default_dot_general(platform),
  )
  experiment = dataclasses.replace(experiment, networks=networks)
  state, batch = aot_cases.shapes(experiment)
  exported = jax.export.export(experiment.make_step(), platforms=[platform])(
    state, batch
  )
  assert exported.platforms == (platform,)
  assert exported.nr_devices == 8
  text = exported.mlir_module()
  arrays = len(jax.tree.leaves(state))
  donated = text.count("jax.buffer_donor") + text.count("tf.aliasing_output")
  assert donated == arrays
  assert "stablehlo.all_reduce" in text
  # Negatives are gathered, nothing else: examples' embeddings.
  gathered = re.findall(r"all_gather.*-> tensor<(\w+)>", text)
  of_contrastive = ("simclr", "simclr_nt_xent", "moco_v3")
  width = config.projector.widths[-1] if method in of_contrastive else None
  assert set(gathered) == ({f"16x{width}xf32"} if width else set())
  # Passes of the encoder and both gradients, but for that by the images; of a
  # target network no gradients.
  passes = 1 if method == "none" else 3
  has_target = parts.METHOD.find(method).target_heads is not None
  passes_of_target = 2 if has_target else 0
  assert text.count("stablehlo.convolution") == (
    passes * (3 * CONVOLUTIONS - 1) + passes_of_target * CONVOLUTIONS
  )
  channels = 8 if platform == "cuda" else 3
  assert f"x{channels}xbf16>, tensor<3x3x{channels}x8xbf16>" in text


def test_convolution_is_chosen_for_the_target():
  assert convolution.default_conv("tpu") is jax.lax.conv_general_dilated
  assert convolution.default_conv("gpu") is convolution.gpu_conv
  assert convolution.default_conv("cpu") is convolution.cpu_conv


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_convolutions_and_their_gradients_leave_out_padding(stride):
  traced = flops_helpers.trace_convolution(stride)
  counted = jaxpr_flops.matrix_flops(traced.jaxpr)
  # Forward and both gradients, each as many products of real inputs.
  side = {1: 9 * 3 - 2, 2: 5 * 3 - 2}[stride]
  assert counted == 3 * 2 * 2 * 7 * 5 * side**2


def test_flops_of_loops_count_every_turn():
  matrix = jnp.ones((4, 4))

  def loop(x):
    return jax.lax.scan(lambda x, _: (matrix @ x, None), x, length=6)[0]

  counted = jaxpr_flops.matrix_flops(jax.make_jaxpr(loop)(np.ones((4, 8))))
  assert counted == 6 * 2 * 4 * 4 * 8
