"""Reads from a trace which operation ran when."""

import jax
import pytest
import trace_reader

from essl_jax.errors import UsageError


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


def test_runs_of_no_length_take_no_time():
  second = 1e9
  runs = [
    _run(0, 0, "mark"),
    _run(1 * second, 2 * second, "conv"),
    _run(3 * second, 4 * second, "conv"),
  ]
  shares = trace_reader.share(runs, lambda run: False)
  assert shares.seconds["jit_step", "mark"] == 0
  assert shares.seconds["jit_step", "conv"] == pytest.approx(2)
  assert (shares.gap, shares.total) == (2.0, 4.0)


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
