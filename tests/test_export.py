"""Steps lower for TPUs and GPUs on a CPU; what a compiled step is read for."""

import dataclasses
import json
import pathlib
import re
import sys

import flops_helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_cases
import tpu_compile
import tpu_flops
import tpu_hlo
import tpu_report

from essl_jax import experiment as experiment_lib
from essl_jax import methods, parallel
from essl_jax import networks as networks_lib
from essl_jax.models import convolution

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[8,4]) -> bf16[4,8] {
  %p = bf16[8,4]{1,0:T(8,128)} parameter(0)
  ROOT %t = bf16[4,8]{1,0:T(8,128)} transpose(%p), dimensions={1,0}
}

%body (state: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %state = (s32[]{:T(128)}, f32[2,3]{1,0}) parameter(0)
  %x = f32[2,3]{1,0:T(2,128)} get-tuple-element(%state), index=1
  %looped = f32[2,3]{1,0} all-reduce(%x), channel_id=2, to_apply=%add
  ROOT %out = (s32[]{:T(128)}, f32[2,3]{1,0}) tuple(%i, %looped)
}

%less (state: (s32[], f32[2,3])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[2,3]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (g: f32[16], h: bf16[8,4]) -> f32[16] {
  %g = f32[16]{0:T(128)} parameter(0)
  %h = bf16[8,4]{1,0:T(8,128)} parameter(1)
  %both = (f32[16]{0:T(128)}, bf16[8,4]{1,0}) all-reduce(%g, %h), to_apply=%add
  %start = (f32[16]{0}, f32[128]{0:T(128)S(1)}) all-gather-start(%g), \
dimensions={0}
  %done = f32[128]{0:T(128)S(1)} all-gather-done(%start)
  %turned = bf16[4,8]{1,0} fusion(%h), kind=kLoop, calls=%fused
  %moved = bf16[8,4]{0,1:T(8,128)} copy(%h)
  %near = (f32[16]{0:T(128)S(1)}, f32[16]{0}, u32[]{:S(2)}) copy-start(%g)
  %loop = (s32[]{:T(128)}, f32[2,3]{1,0}) while(%init), condition=%less, \
body=%body
  ROOT %back = f32[16]{0} transpose(%g), dimensions={0}
}
"""


@pytest.mark.parametrize("method", methods.METHODS)
def test_steps_lower_for_tpu_and_cuda(tiny_config, method):
  config = tiny_config(method, precision="bfloat16")
  mesh = parallel.make_mesh(jax.devices())
  source = tpu_cases.Source(4, (16, 16, 3), False, 64)
  experiment = experiment_lib.build(config, source, mesh)
  # With the convolution of accelerators: the mesh is of CPUs.
  networks = networks_lib.make_networks(
    config, num_classes=4, axis_name=parallel.AXIS
  )
  experiment = dataclasses.replace(experiment, networks=networks)
  state, batch = tpu_cases.shapes(experiment)
  exported = jax.export.export(
    experiment.make_step(), platforms=["cuda", "tpu"]
  )(state, batch)
  assert exported.platforms == ("cuda", "tpu")
  assert exported.nr_devices == 8
  text = exported.mlir_module()
  arrays = len(jax.tree.leaves(state))
  donated = text.count("jax.buffer_donor") + text.count("tf.aliasing_output")
  assert donated == arrays
  assert "stablehlo.all_reduce" in text
  # Negatives are gathered, nothing else: examples' embeddings [16, 32].
  gathered = re.findall(r"all_gather.*-> tensor<(\w+)>", text)
  is_contrastive = method in ("simclr", "simclr_nt_xent")
  assert set(gathered) == ({"16x32xf32"} if is_contrastive else set())
  # Three passes of a ResNet-18 at the least, and their gradients.
  assert text.count("stablehlo.convolution") >= 3 * 20
  assert "bf16" in text


def test_convolution_is_chosen_for_the_target():
  assert convolution.default_conv("tpu") is jax.lax.conv_general_dilated
  assert convolution.default_conv("cpu") is convolution.cpu_conv


def test_collectives_are_counted_through_loops_and_tuples():
  assert tpu_hlo.collectives(PROGRAM) == {
    "all-gather": {"count": 1, "bytes": 512, "largest": 512},
    "all-reduce": {
      "count": 1 + 5,
      "bytes": 64 + 64 + 5 * 24,
      "largest": 64 + 64,
    },
  }


def test_rearrangements_leave_out_what_is_fused():
  assert tpu_hlo.rearrangements(PROGRAM) == {
    "copy": {"count": 1, "bytes": 64},
    "transpose": {"count": 1, "bytes": 64},
    "prefetch": {"count": 1, "bytes": 64},
  }


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_convolutions_and_their_gradients_leave_out_padding(stride):
  traced = flops_helpers.trace_convolution(stride)
  counted = tpu_flops.matrix_flops(traced.jaxpr)
  # Forward and both gradients, each as many products of real inputs.
  side = {1: 9 * 3 - 2, 2: 5 * 3 - 2}[stride]
  assert counted == 3 * 2 * 2 * 7 * 5 * side**2


def test_flops_of_loops_count_every_turn():
  matrix = jnp.ones((4, 4))

  def loop(x):
    return jax.lax.scan(lambda x, _: (matrix @ x, None), x, length=6)[0]

  counted = tpu_flops.matrix_flops(jax.make_jaxpr(loop)(np.ones((4, 8))))
  assert counted == 6 * 2 * 4 * 4 * 8


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--topology=v9-16"], "there are: v5e-16"),
    (["--config=configs/absent.py"], "no file configs/absent.py"),
    (["--config=configs/cifar_simclr.py:odd"], "unknown config variant 'odd'"),
    (["--variant=faster"], "must be published, rematerialize"),
  ],
)
def test_wrong_arguments_end_with_one_line(
  capsys, monkeypatch, arguments, message
):
  monkeypatch.chdir(pathlib.Path(__file__).parents[1])
  assert tpu_compile.main(arguments) == 2
  error = capsys.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1


def test_a_missing_compiler_ends_with_one_line(capsys, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parents[1])
  monkeypatch.setitem(sys.modules, "libtpu", None)
  assert tpu_compile.main(["--topology=v5e-16"]) == 2
  error = capsys.readouterr().err
  assert "libtpu, the TPU compiler, is not installed" in error
  assert len(error.splitlines()) == 1


def _record(**fields):
  bound = {"step_seconds": 0.004, "images_per_second": 1000.0, "hours": 2.5}
  return {
    "config": "configs/cifar_simsiam.py",
    "topology": "v5e-16",
    "setting": "published",
    "images_per_chip": 32,
    "epochs": 800,
    "matrix_flops": 271660941312,
    "bound": bound,
    **fields,
  }


@pytest.mark.parametrize(
  ("message", "size"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
      " for HLO temporaries (46.50G) exceeds available HBM (15.75G).",
      int(46.5 * 2**30),
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory"
      " in memory space hbm. Used 512.0M of 15.75G hbm.",
      2**29,
    ),
  ],
)
def test_steps_that_are_too_large_are_read_from_the_error(message, size):
  record = tpu_compile.out_of_memory(jax.errors.JaxRuntimeError(message))
  assert not record["fits"]
  assert record["hbm_bytes"] == size


def test_other_errors_of_the_compiler_are_not_hidden():
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    tpu_compile.out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: no"))


def test_a_step_that_does_not_fit_fails_in_one_line(
  capsys, monkeypatch, tmp_path
):
  document = tmp_path / "tpu.md"
  document.write_text(f"before\n{tpu_report.BEGIN}\n{tpu_report.END}\nafter\n")
  monkeypatch.setattr(tpu_report, "DOCUMENT", document)
  monkeypatch.setattr(tpu_compile, "RESULTS", tmp_path)
  record = _record(fits=False, hbm_bytes=20 * 2**30, compile_seconds=3.0)

  def compile_case(case, **options):
    (tmp_path / f"{case.name}.json").write_text(json.dumps(record))
    return record

  monkeypatch.setattr(tpu_compile, "compile_case", compile_case)
  config = ["--config=configs/cifar_simsiam.py", "--topology=v5e-16"]
  assert tpu_compile.main(config) == 1
  error = capsys.readouterr().err
  assert error.startswith("FAIL cifar_simsiam__v5e-16__published: does not fit")
  assert "20 of 16 GiB" in error
  assert len(error.splitlines()) == 1
  text = document.read_text()
  assert "| cifar_simsiam | v5e-16 | published | 32 | **20 of 16" in text
  assert "| cifar_simclr | v5e-16 | published | not compiled yet |" in text
  assert text.startswith("before\n") and text.endswith("after\n")
