"""Steps lower for TPUs and GPUs on a CPU; what a compiled step is read for."""

import argparse
import dataclasses
import json
import pathlib
import re

import aot_cases
import aot_compile
import aot_report
import flops_helpers
import hlo_kernels
import hlo_text
import jax
import jax.numpy as jnp
import jaxpr_flops
import numpy as np
import pytest

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
  source = aot_cases.Source(4, (16, 16, 3), False, 64)
  experiment = experiment_lib.build(config, source, mesh)
  # With the convolution of accelerators: the mesh is of CPUs.
  networks = networks_lib.make_networks(
    config, num_classes=4, axis_name=parallel.AXIS
  )
  experiment = dataclasses.replace(experiment, networks=networks)
  state, batch = aot_cases.shapes(experiment)
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
  assert convolution.default_conv("gpu") is convolution.gpu_conv
  assert convolution.default_conv("cpu") is convolution.cpu_conv


def test_collectives_are_counted_through_loops_and_tuples():
  assert hlo_text.collectives(PROGRAM) == {
    "all-gather": {"count": 1, "bytes": 512, "largest": 512},
    "all-reduce": {
      "count": 1 + 5,
      "bytes": 64 + 64 + 5 * 24,
      "largest": 64 + 64,
    },
  }


def test_rearrangements_leave_out_what_is_fused():
  assert hlo_text.rearrangements(PROGRAM) == {
    "copy": {"count": 1, "bytes": 64},
    "transpose": {"count": 1, "bytes": 64},
    "prefetch": {"count": 1, "bytes": 64},
  }


def test_launches_are_what_a_device_runs_by_itself():
  found = hlo_text.launches(PROGRAM)
  assert {x.line.name: (x.times, x.bytes) for x in found} == {
    "looped": (5, 24 + 24),
    "lt": (5, 1 + 4 + 4),
    "both": (1, 2 * (64 + 64)),
    "start": (1, 64 + 64 + 512),
    "turned": (1, 64 + 64),
    "moved": (1, 64 + 64),
    "near": (1, 64 + 64 + 4 + 64),
    "back": (1, 64 + 64),
  }


def test_of_what_is_sliced_only_the_slice_is_read():
  program = """\
%fused (p: f32[64], q: f32[4]) -> f32[4] {
  %p = f32[64]{0} parameter(0)
  %q = f32[4]{0} parameter(1)
  %part = f32[4]{0} slice(%p), slice={[8:12]}
  ROOT %sum = f32[4]{0} add(%part, %q)
}

ENTRY %main (g: f32[64], h: f32[4]) -> f32[4] {
  %g = f32[64]{0} parameter(0)
  %h = f32[4]{0} parameter(1)
  ROOT %f = f32[4]{0} fusion(%g, %h), kind=kLoop, calls=%fused
}
"""
  (launch,) = hlo_text.launches(program)
  assert launch.bytes == 3 * 16
  all_of_it = program.replace("add(%part, %q)", "add(%part, %p)")
  (launch,) = hlo_text.launches(all_of_it)
  assert launch.bytes == 2 * 16 + 256


def test_turns_of_a_loop_that_the_compiler_knows():
  known = PROGRAM.replace(
    "body=%body\n",
    'body=%body, backend_config={"known_trip_count":{"n":"7"}}\n',
  )
  (looped,) = (x for x in hlo_text.launches(known) if x.line.name == "looped")
  assert looped.times == 7


OVERLAPPING = """\
ENTRY %main (g: f32[16], h: f32[8]) -> f32[16] {
  %g = f32[16]{0} parameter(0)
  %h = f32[8]{0} parameter(1)
  %sums = f32[16]{0} all-reduce-start(%g), to_apply=%add, \
backend_config={"is_sync":false}
  %turned = f32[8]{0} fusion(%h), kind=kLoop, calls=%fused
  %all = f32[16]{0} all-reduce-done(%sums)
  %means = f32[8]{0} all-reduce-start(%h), to_apply=%add, \
backend_config={"is_sync":true}
  %more = f32[8]{0} fusion(%h), kind=kLoop, calls=%fused
  %they = f32[8]{0} all-reduce-done(%means)
  %rows = (f32[16]{0}, f32[128]{0}) all-gather-start(%g), dimensions={0}
  %gathered = f32[128]{0} all-gather-done(%rows)
  ROOT %last = f32[16]{0} copy(%all)
}
"""


def test_overlaps_are_of_collectives_that_let_others_begin():
  assert hlo_text.overlaps(OVERLAPPING) == {"count": 1, "bytes": 64}


GPU_STEP = """\
%fused (p: bf16[8,4]) -> bf16[8,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %n = bf16[8,4]{1,0} negate(%p)
}

ENTRY %main (x: bf16[8,4], w: bf16[4,2]) -> bf16[8,2] {
  %x = bf16[8,4]{1,0} parameter(0)
  %w = bf16[4,2]{1,0} parameter(1)
  %dark = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused, \
metadata={op_name="jit(train_step)/augmentation/neg"}
  %z = bf16[8,2]{1,0} custom-call(%dark, %w), \
custom_call_target="__cublas$gemm", \
metadata={op_name="jit(train_step)/transpose(jvp(Networks))/projector/dot"}, \
backend_config={"lhs_contracting_dimensions":["1"]}
  ROOT %out = bf16[8,2]{1,0} copy(%z), \
metadata={op_name="jit(train_step)/optimizer/copy"}
}
"""


def test_kernels_are_added_up_by_part():
  found = hlo_kernels.summarise(GPU_STEP)
  row = lambda *cells: dict(
    zip(("part", "direction", "count", "bytes", "flops"), cells, strict=True)
  )
  assert found == {
    "count": 3,
    "bytes": 128 + (64 + 16 + 32) + 64,
    "parts": [
      row("augmentation", "", 1, 128, 0),
      row("projector", "backward", 1, 112, 2 * 8 * 2 * 4),
      row("optimizer", "", 1, 64, 0),
    ],
  }


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


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--topology=v9-16"], "there are: v5e-16"),
    (["--config=configs/absent.py"], "no file configs/absent.py"),
    (["--config=configs/cifar_simclr.py:odd"], "unknown config variant 'odd'"),
    (["--variant=faster"], "must be published, rematerialize"),
    (["--text=absent", "--report_only"], "--text=absent: there is no such"),
  ],
)
def test_wrong_arguments_end_with_one_line(
  capsys, monkeypatch, arguments, message
):
  monkeypatch.chdir(pathlib.Path(__file__).parents[1])
  assert aot_compile.main(arguments) == 2
  error = capsys.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
  ("topology", "message"),
  [
    ("v5e-16", "no TPU compiler is installed: pip install -e '.[tpu]'"),
    ("h200", "no GPU compiler is installed: pip install -e '.[cuda]'"),
  ],
)
def test_a_missing_compiler_ends_with_one_line(
  capsys, monkeypatch, topology, message
):
  monkeypatch.chdir(pathlib.Path(__file__).parents[1])
  monkeypatch.setattr(aot_cases, "compiler", lambda platform: None)
  assert aot_compile.main([f"--topology={topology}"]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1


def test_the_plan_is_of_the_compilers_that_are_there(monkeypatch):
  nothing = argparse.Namespace(config=None, topology=None, variant=None)
  there = {"cuda": "a package"}
  monkeypatch.setattr(aot_cases, "compiler", there.get)
  found = {case.topology for case in aot_compile.cases(nothing)}
  assert found == {"h200", "h200-8"}
  there.clear()
  assert len(aot_compile.cases(nothing)) == len(aot_report.PLAN)


def test_a_gpu_that_is_not_there_is_compiled_for():
  if aot_cases.compiler("cuda") is None:
    pytest.skip("JAX's CUDA plugin is not installed")
  mesh = aot_cases.make_mesh("h200-8")
  assert mesh.size == 8
  assert mesh.devices[0].device_kind == "NVIDIA H200"
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(parallel.AXIS)
  )
  rows = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=sharding)
  text = jax.jit(lambda x: x.sum(0)).lower(rows).compile().as_text()
  exchanged = hlo_text.collectives(text)
  assert exchanged == {"all-reduce": {"count": 1, "bytes": 16, "largest": 16}}
  assert hlo_text.overlaps(text) == {"count": 0, "bytes": 0}


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
  record = aot_compile.out_of_memory(jax.errors.JaxRuntimeError(message))
  assert not record["fits"]
  assert record["hbm_bytes"] == size


def test_other_errors_of_the_compiler_are_not_hidden():
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    aot_compile.out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: no"))


@pytest.fixture
def documents(monkeypatch, tmp_path):
  """A folder of documents and records in place of the repository's."""
  block = "<!-- {0}: begin -->\n<!-- {0}: end -->\n"
  for name in ("tpu.md", "gpu.md"):
    text = f"before\n{block.format('table')}{block.format('parts')}after\n"
    (tmp_path / name).write_text(text)
  monkeypatch.setattr(aot_report, "DOCUMENTS", tmp_path)
  monkeypatch.setattr(aot_compile, "RESULTS", tmp_path)
  return tmp_path


def test_a_step_that_does_not_fit_fails_in_one_line(
  capsys, monkeypatch, documents
):
  record = _record(fits=False, hbm_bytes=20 * 2**30, compile_seconds=3.0)

  def compile_case(case, **options):
    (documents / f"{case.name}.json").write_text(json.dumps(record))
    return record

  monkeypatch.setattr(aot_compile, "compile_case", compile_case)
  config = ["--config=configs/cifar_simsiam.py", "--topology=v5e-16"]
  assert aot_compile.main(config) == 1
  error = capsys.readouterr().err
  assert error.startswith("FAIL cifar_simsiam__v5e-16__published: does not fit")
  assert "20 of 16 GiB" in error
  assert len(error.splitlines()) == 1
  text = (documents / "tpu.md").read_text()
  assert "| cifar_simsiam | v5e-16 | published | 32 | **20 of 16" in text
  assert "| cifar_simclr | v5e-16 | published | not compiled yet |" in text
  assert text.startswith("before\n") and text.endswith("after\n")
  assert "h200" not in text
  assert "| cifar_simsiam | h200 |" in (documents / "gpu.md").read_text()


def test_the_table_of_gpus_has_kernels_and_parts(documents):
  record = _record(
    topology="h200",
    fits=True,
    hbm_bytes=2**31,
    collectives={"all-reduce": {"count": 2, "bytes": 2**22, "largest": 2**21}},
    overlaps={"count": 1, "bytes": 2**21},
    rearrangements={
      "copy": {"count": 3, "bytes": 2**20},
      "transpose": {"count": 1, "bytes": 2**20},
    },
    kernels=hlo_kernels.summarise(GPU_STEP) | {"count": 1234, "bytes": 48e9},
  )
  (documents / "one.json").write_text(json.dumps(record))
  aot_report.write(documents)
  text = (documents / "gpu.md").read_text()
  # Of 141 GB and 4.8 TB/s.
  cells = "2 of 131.32 | 2 | 4 | 2 | 4 | 2 | 1,234 | 10.0 | 0.27 | 4.0"
  assert f"| cifar_simsiam | h200 | published | 32 | {cells} |" in text
  assert "| projector, backward | 1 | 0.00 | 0.00 | 0.0 |" in text
  assert "| **step** | 1,234 | 48.00 | 10.00 | 0.0 |" in text
