"""What is read in the text of a compiled program."""

import hlo_collectives
import hlo_kernels
import hlo_text

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


def test_collectives_are_counted_through_loops_and_tuples():
  assert hlo_collectives.collectives(PROGRAM) == {
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
    "start": (1, 512 + 64),
    "turned": (1, 64 + 64),
    "moved": (1, 64 + 64),
    "near": (1, 64 + 64),
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
  assert hlo_collectives.overlaps(OVERLAPPING) == {"count": 1, "bytes": 64}


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
