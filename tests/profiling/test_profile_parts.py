"""The parts that operations of a step belong to, and their arithmetic."""

import flops_helpers
import hlo_flops
import hlo_parts
import hlo_text
import jax
import jax.numpy as jnp
import jaxpr_flops
import profile_report
import pytest
import trace_reader

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
    ("jit(f)/target/mul", ("target network", "")),
    ("jit(f)/exchange/psum", ("exchange of gradients", "")),
    ("jit(f)/jvp(Networks)/projector/dense_1/dot", ("projector", "forward")),
    (
      "jit(f)/transpose(jvp(Networks))/transformation_head/dense_0/transpose",
      ("transformation head", "backward"),
    ),
    (
      "jit(f)/jvp(Networks)/Networks.encode/encoder/layer3_0"
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
  assert ops["loop"].opcode in hlo_text.CONTAINERS
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
  assert counted == jaxpr_flops.matrix_flops(traced.jaxpr) > 0
  assert compiled.cost_analysis()["flops"] == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(("argnums", "products"), [(0, 2), ((0, 1), 3)])
def test_flops_that_no_result_needs_are_left_out(argnums, products):
  # Traced, this gradient is by kernel and images, asked for or not.
  @jax.jit
  def both(a, b, out):
    return out @ b.T, a.T @ out

  @jax.custom_vjp
  def product(a, b):
    return a @ b

  product.defvjp(
    lambda a, b: (a @ b, (a, b)), lambda saved, out: both(*saved, out)
  )
  value = lambda a, b: jnp.sum(product(a, b) ** 2)
  traced = jax.jit(jax.grad(value, argnums)).trace(
    jnp.ones((6, 5)), jnp.ones((5, 7))
  )
  assert jaxpr_flops.matrix_flops(traced.jaxpr) == products * 2 * 6 * 5 * 7


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
  (line,) = hlo_text.instructions(
    f"  %c = ({shape}{{3,2,1,0}}, u8[99]{{0}}) custom-call({read}), window="
    "{size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, "
    f'custom_call_target="__cudnn$conv{target}"'
  )
  assert hlo_flops.count(line, shapes) == flops


def test_flops_of_cublas_are_those_of_the_product():
  (line,) = hlo_text.instructions(
    "  %g = (f32[6,7]{1,0}, s8[99]{0}) custom-call(%a, %b), custom_call_target="
    '"__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_'
    'numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":'
    '["0"]}}}'
  )
  shapes = {"a": "f32[6,5]{1,0}", "b": "f32[5,7]{1,0}"}
  assert hlo_flops.count(line, shapes) == 2 * 6 * 5 * 7


def _run(start, end, op, module="jit_step"):
  return trace_reader.Run(start, end, module, op)


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
