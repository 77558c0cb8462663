"""Where the time of a step goes: traces, parts, arithmetic, bounds."""

import json
import pathlib
import sys

import device_peaks
import flops_helpers
import hlo_flops
import hlo_parts
import jax
import jax.numpy as jnp
import profile_report
import profile_step
import pytest
import step_cases
import tpu_flops
import tpu_hlo
import trace_reader

from essl_jax.errors import UsageError
from essl_jax.models import resnet

# A step of one convolution, its gradient without a name, a loop, a copy.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused (p: f32[4,8,8,3]) -> f32[4,8,8,3] {
  %p = f32[4,8,8,3]{3,2,1,0} parameter(0)
  %half = f32[4,8,8,3]{3,2,1,0} multiply(%p, %p), metadata={op_name=\
"jit(step)/transpose(jvp(Networks))/encoder/layer2_1/bn1/mul"}
  ROOT %all = f32[4,8,8,3]{3,2,1,0} add(%half, %p), metadata={op_name=\
"jit(step)/transpose(jvp(Networks))/encoder/layer2_1/bn1/add"}
}

ENTRY %main (x: f32[4,8,8,3], k: f32[3,3,3,5]) -> f32[3,3,3,5] {
  %x = f32[4,8,8,3]{3,2,1,0} parameter(0)
  %k = f32[3,3,3,5]{3,2,1,0} parameter(1)
  %seen = f32[4,8,8,3]{3,2,1,0} negate(%x), metadata={op_name=\
"jit(step)/augmentation/vmap()/neg"}
  %conv = f32[4,8,8,5]{3,2,1,0} convolution(%seen, %k), window={size=3x3 \
pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name=\
"jit(step)/jvp(Networks)/encoder/layer2_1/conv1/conv_general_dilated"}
  %mixed = f32[4,8,8,3]{3,2,1,0} fusion(%seen), kind=kLoop, calls=%fused
  %turned = f32[4,8,8,3]{0,1,2,3} copy(%seen)
  %grad = f32[3,3,3,5]{3,2,1,0} convolution(%turned, %mixed), window={size=8x8 \
pad=1_1x1_1}, dim_labels=f01b_i01o->01bf
  %moved = f32[3,3,3,5]{3,2,1,0} copy(%grad)
  %loop = f32[3,3,3,5]{3,2,1,0} while(%moved), condition=%less, body=%body, \
metadata={op_name="jit(step)/optimizer/while"}
  %sum = f32[]{} reduce(%loop), metadata={op_name="jit(step)/metrics/sum"}
  ROOT %new = f32[3,3,3,5]{3,2,1,0} subtract(%k, %loop), metadata={op_name=\
"jit(step)/optimizer/sub"}
}
"""


@pytest.mark.parametrize(
  ("op_name", "place"),
  [
    ("jit(f)/augmentation/vmap(jit(_uniform))/or", ("augmentation", "")),
    ("jit(f)/jvp(losses)/cos", ("losses", "forward")),
    ("jit(f)/transpose(jvp(losses))/mul", ("losses", "backward")),
    ("jit(f)/optimizer/sub", ("optimizer", "")),
    ("jit(f)/exchange/psum", ("exchange of gradients", "")),
    ("jit(f)/jvp(Networks)/projector/dense_1/dot", ("projector", "forward")),
    (
      "jit(f)/transpose(jvp(Networks))/Networks.predict_transformation"
      "/transformation_head/dense_0/transpose",
      ("transformation head", "backward"),
    ),
    (
      "jit(f)/jvp(Networks)/Networks.predict_transformation/encoder/layer3_0"
      "/conv1/jit(optimization_barrier)",
      ("encoder: layer3", "forward"),
    ),
    ("jit(f)/while/body/Networks/encoder/bn1/mul", (hlo_parts.STEM, "forward")),
    (
      "jit(f)/while/body/transpose(jvp(Networks))/encoder/checkpoint"
      "/rematted_computation/layer1_1/conv2/conv_general_dilated",
      ("encoder: layer1", "backward"),
    ),
    ("jit(f)/add", ("other", "")),
    ("reduce_sum", None),
  ],
)
def test_names_are_read_as_parts(op_name, place):
  assert hlo_parts.place_of(op_name) == (place and hlo_parts.Place(*place))


def test_operations_without_names_go_where_they_are_needed():
  ops = hlo_parts.read(PROGRAM)
  backward = hlo_parts.Place("encoder: layer2", "backward")
  found = {name: (ops[name].place, ops[name].kind) for name in ops}
  assert found["mixed"] == (backward, "elementwise")
  assert found["grad"] == (backward, "convolution")
  # Made for the gradient, though what it copies is the augmentation's.
  assert found["turned"] == (backward, "copy")
  assert found["moved"] == (hlo_parts.Place("optimizer"), "copy")
  assert found["sum"] == (hlo_parts.Place("metrics"), "reduction")
  assert [x for x in ops if not ops[x].is_named] == [
    *("p", "x", "k", "turned", "grad", "moved")
  ]
  assert ops["loop"].opcode in hlo_parts.CONTAINERS
  # Both of 3x3 kernels over 8x8 pixels, without the padding's products.
  pairs = (8 * 3 - 2) ** 2
  assert ops["conv"].flops == 2 * 4 * 5 * 3 * pairs
  assert ops["mixed"].flops == ops["new"].flops == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_compiled_convolutions_are_those_traced_and_xlas(stride):
  traced = flops_helpers.trace_convolution(stride)
  compiled = traced.lower().compile()
  ops = hlo_parts.read(compiled.as_text())
  counted = sum(op.flops for op in ops.values())
  assert counted == tpu_flops.matrix_flops(traced.jaxpr) > 0
  assert compiled.cost_analysis()["flops"] == pytest.approx(counted, rel=0.05)


def test_flops_of_a_compiled_product_are_known():
  compiled = jax.jit(jnp.matmul).lower(jnp.ones((6, 5)), jnp.ones((5, 7)))
  ops = hlo_parts.read(compiled.compile().as_text())
  assert sum(op.flops for op in ops.values()) == 2 * 6 * 5 * 7


@pytest.mark.parametrize(
  ("shape", "read", "target", "flops"),
  [
    ("f32[4,8,8,5]", "%x, %k", "Forward", 2 * 4 * 5 * 3 * 22**2),
    ("f32[4,8,8,3]", "%y, %k", "BackwardInput", 2 * 4 * 5 * 3 * 22**2),
    ("f32[3,3,3,5]", "%x, %y", "BackwardFilter", 2 * 4 * 5 * 3 * 22**2),
  ],
)
def test_flops_of_cudnn_are_those_of_the_forward_pass(
  shape, read, target, flops
):
  shapes = {"x": "f32[4,8,8,3]", "k": "f32[3,3,3,5]", "y": "f32[4,8,8,5]"}
  (line,) = tpu_hlo.instructions(
    f"  %c = ({shape}{{3,2,1,0}}, u8[99]{{0}}) custom-call({read}), window="
    "{size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, "
    f'custom_call_target="__cudnn$conv{target}"'
  )
  assert hlo_flops.count(line, shapes) == flops


def test_flops_of_cublas_are_those_of_the_product():
  (line,) = tpu_hlo.instructions(
    "  %g = (f32[6,7]{1,0}, s8[99]{0}) custom-call(%a, %b), custom_call_target="
    '"__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_'
    'numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":'
    '["0"]}}}'
  )
  shapes = {"a": "f32[6,5]{1,0}", "b": "f32[5,7]{1,0}"}
  assert hlo_flops.count(line, shapes) == 2 * 6 * 5 * 7


def _run(start, end, op, module="jit_step"):
  return trace_reader.Run(start, end, module, op)


def test_time_is_shared_by_hand_and_sums_to_the_total():
  second = 1e9
  runs = [
    _run(0, 10 * second, "loop"),
    _run(1 * second, 3 * second, "conv"),
    _run(2 * second, 4 * second, "sum"),
    _run(12 * second, 13 * second, "conv"),
  ]
  shares = trace_reader.share(runs, lambda run: run.op == "loop")
  assert shares.seconds["jit_step", "conv"] == pytest.approx(1.5 + 1)
  assert shares.seconds["jit_step", "sum"] == pytest.approx(1.5)
  assert shares.seconds["jit_step", "loop"] == pytest.approx(10 - 3)
  assert (shares.gap, shares.total) == (2.0, 13.0)
  assert shares.runs["jit_step", "conv"] == 2
  assert trace_reader.share([], lambda run: False).total == 0


def test_parts_kinds_and_gaps_make_up_the_step():
  second = 1e9
  runs = [
    _run(0, 2 * second, "seen"),
    _run(2 * second, 6 * second, "conv"),
    _run(6 * second, 8 * second, "grad"),
    _run(8 * second, 9 * second, "absent"),
    _run(9 * second, 9.5 * second, "gather", "jit_other"),
    _run(10 * second, 12 * second, "new"),
  ]
  ops = hlo_parts.read(PROGRAM)
  found = profile_report.summarise(runs, ops, "jit_step", steps=2)
  assert found["total_seconds"] == 6
  assert found["gap_percent"] == pytest.approx(100 * 0.5 / 12)
  seconds = {(x["part"], x["direction"]): x["seconds"] for x in found["parts"]}
  assert seconds == {
    (profile_report.PROGRAMS, ""): 0.25,
    ("augmentation", ""): 1,
    ("encoder: layer2", "forward"): 2,
    ("encoder: layer2", "backward"): 1,
    ("optimizer", ""): 1,
    (profile_report.UNKNOWN, ""): 0.5,
  }
  for rows in (found["parts"], found["kinds"], found["longest"]):
    percents = [row["percent"] for row in rows if "percent" in row]
    if percents:
      assert sum(percents) + found["gap_percent"] == pytest.approx(100)
  assert found["inferred_percent"] == pytest.approx(100 * 2 / 12)
  assert found["unknown_percent"] == pytest.approx(100 / 12)
  assert found["longest"][0]["op"] == "conv"
  assert sum(x["flops"] for x in found["parts"]) == (
    (ops["conv"].flops + ops["grad"].flops) / 2
  )


SPACE = """
planes {
  name: "/device:GPU:0"
  lines {
    name: "Stream #13(Compute)"
    timestamp_ns: 100
    events { metadata_id: 1 offset_ps: 0 duration_ps: 2000000
      stats { metadata_id: 1 str_value: "conv.1" }
      stats { metadata_id: 2 str_value: "jit_step(7)" } }
    events { metadata_id: 2 offset_ps: 3000000 duration_ps: 1000000 }
  }
  lines {
    name: "XLA Ops"
    timestamp_ns: 100
    events { metadata_id: 1 offset_ps: 0 duration_ps: 2000000 }
  }
  event_metadata { key: 1 value { id: 1 name: "sm90_xmma_fprop" } }
  event_metadata { key: 2 value { id: 2 name: "memcpy" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_module" } }
}
planes { name: "/device:GPU:1" lines { name: "Stream #1(Compute)" } }
planes {
  name: "/host:CPU"
  lines {
    name: "worker"
    events { metadata_id: 1 offset_ps: 5000000 duration_ps: 1000000
      stats { metadata_id: 1 str_value: "conv.1" }
      stats { metadata_id: 2 str_value: "jit_step" }
      stats { metadata_id: 3 int64_value: 1 }
      stats { metadata_id: 4 uint64_value: 77 } }
  }
  lines {
    name: "another"
    events { metadata_id: 2 offset_ps: 9000000 duration_ps: 0
      stats { metadata_id: 5 uint64_value: 77 } }
  }
  event_metadata { key: 1 value { id: 1 name: "conv.1" } }
  event_metadata { key: 2 value { id: 2 name: "end: conv.1" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_module" } }
  stat_metadata { key: 3 value { id: 3 name: "device_ordinal" } }
  stat_metadata { key: 4 value { id: 4 name: "_p" } }
  stat_metadata { key: 5 value { id: 5 name: "_c" } }
}
"""


def test_streams_of_a_gpu_are_read_once():
  data = jax.profiler.ProfileData.from_text_proto(SPACE)
  assert trace_reader.runs(data) == [
    trace_reader.Run(100, 2100, "jit_step", "conv.1"),
    trace_reader.Run(3100, 4100, "", ""),
  ]
  assert trace_reader.runs(data, device=1) == []


def test_operations_of_a_cpu_end_where_another_thread_ends_them():
  host = SPACE[SPACE.index('planes {\n  name: "/host') :]
  data = jax.profiler.ProfileData.from_text_proto(host)
  assert trace_reader.runs(data) == []
  (run,) = trace_reader.runs(data, device=1)
  assert run == trace_reader.Run(5000, 9000, "jit_step", "conv.1")


def test_a_missing_trace_is_told(tmp_path):
  with pytest.raises(UsageError, match="no trace"):
    trace_reader.load(tmp_path)


def test_a_bound_is_the_longer_of_both_times():
  peaks = {"flops_per_second": 100.0, "bytes_per_second": 10.0}
  found = profile_report.roofline(400.0, 399, 20.0, peaks, 8.0)
  assert (found["limit"], found["bound_seconds"]) == ("arithmetic", 4.0)
  assert (found["achieved"], found["flops_source"]) == (0.5, "XLA")
  # XLA counts the body of a loop once, and no calls of libraries.
  found = profile_report.roofline(0.0, 100, 20.0, peaks, 8.0)
  assert (found["limit"], found["bound_seconds"]) == ("memory", 2.0)
  assert (found["flops"], found["flops_source"]) == (100, "traced matrices")


def test_peaks_are_faster_than_nothing_and_slower_than_a_known_bound():
  assert 1e7 < device_peaks.flops_per_second("float32", largest=64) < 1e16
  assert 1e7 < device_peaks.bytes_per_second(2**20) < 1e14


@pytest.fixture
def short_resnet(monkeypatch):
  """ResNet-18 with one block in each of two stages: compiles in seconds."""
  monkeypatch.setitem(resnet.STAGES, 18, ((1, 1, 0, 0), False))
  fields = {"projector": {"widths": (32, 32)}, "predictor_hidden": 8}
  fields["equivariance"] = {"hidden_widths": (32,), "weight": 0.4}
  monkeypatch.setitem(step_cases.OWN_FIELDS, "simsiam", fields)
  peaks = {"flops_per_second": 1e12, "bytes_per_second": 1e10}
  for name, value in peaks.items():
    monkeypatch.setattr(device_peaks, name, lambda *_, value=value: value)


def test_a_step_is_profiled_as_a_whole(short_resnet, tmp_path, capsys):
  path, traces = tmp_path / "record.json", tmp_path / "traces"
  code = profile_step.main(
    [
      *("--width=4", "--batch=8", "--size=8", "--devices=1", "--augment"),
      *("--steps=2", f"--json={path}", f"--trace-dir={traces}"),
    ]
  )
  assert code == 0
  record = json.loads(path.read_text())
  parts = {x["part"] for x in record["parts"]}
  assert {
    *("augmentation", hlo_parts.STEM, "encoder: layer1", "encoder: layer2"),
    *("projector", "predictor", "transformation head", "losses", "optimizer"),
  } <= parts
  assert not parts & {"encoder: layer3", profile_report.UNKNOWN}
  percents = [x["percent"] for x in record["parts"]]
  assert 0 <= record["gap_percent"] <= 100
  assert sum(percents) + record["gap_percent"] == pytest.approx(100)
  share = {"other": 0.0} | {x["part"]: 0.0 for x in record["parts"]}
  for row in record["parts"]:
    share[row["part"]] += row["percent"]
  assert share["other"] < 10
  roofline = record["roofline"]
  counted = sum(x["flops"] for x in record["parts"])
  # Traced, the stem differentiates its images too, which the compiler drops:
  # 3x3 kernels, 3 and 4 channels, over 16 images of 8x8 and 32 of 4x4 pixels.
  unused = 2 * 3 * 4 * (16 * (8 * 3 - 2) ** 2 + 32 * (4 * 3 - 2) ** 2)
  traced = roofline["matrix_flops"] - unused
  assert counted == pytest.approx(traced, rel=0.05)
  assert roofline["bound_seconds"] > 0 and record["input_seconds"] > 0
  assert record["environment"]["jax"] == jax.__version__
  assert list(traces.glob("**/*.xplane.pb"))
  lines = capsys.readouterr().out.splitlines()
  assert any(line.startswith("| encoder: layer1 | ") for line in lines)
  assert any(line.startswith("| **step** | ") for line in lines)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--steps=0"], "--steps must be at least 1"),
    (["--devices=99"], "there are 8 devices"),
    (["--batch=x"], "invalid int value"),
    (["--method=moco"], "invalid choice"),
  ],
)
def test_wrong_arguments_end_with_one_line(words, message, capsys):
  assert profile_step.main(words) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1


def test_no_script_hides_a_module_of_python():
  scripts = pathlib.Path(profile_step.__file__).parent.glob("*.py")
  names = {path.stem for path in scripts}
  assert names.isdisjoint(sys.stdlib_module_names) and len(names) > 10
