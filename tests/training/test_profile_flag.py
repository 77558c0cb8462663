"""`--profile`: which steps are traced, the messages, what is refused."""

import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import program_helpers
import pytest

from essl_jax.errors import UsageError
from essl_jax.storage import places
from essl_jax.training import profile


class Clock:
  """Notes when it was stopped and started."""

  def __init__(self):
    self.calls = []

  def pause(self, step):
    """Stops."""
    self.calls.append(("pause", step))

  def start(self, step):
    """Starts."""
    self.calls.append(("start", step))


def train(steps, workdir, *, first=0, total=12, most=1, stop=None):
  """A toy loop; what it says, its clock, and the trace's marks by step."""
  said, clock, step = [], Clock(), first
  metrics = types.SimpleNamespace(settle=lambda: None)
  program = jax.jit(lambda x: jnp.sin(x) + 1)
  with profile.Trace(
    steps, places.locate(workdir), metrics, clock, said.append
  ) as trace:
    while step < total:
      count = min(most, total - step)
      trace.before(step, count)
      with jax.profiler.TraceAnnotation(f"mark_{step + 1}_{step + count}"):
        program(np.ones(3)).block_until_ready()
      step += count
      trace.after(step)
      if step == stop:
        break
  return said, clock.calls, marks(workdir)


def marks(workdir):
  """The names of the toy's programs in the traces of a workdir."""
  found = set()
  for file in workdir.glob("tensorboard/plugins/profile/*/*.xplane.pb"):
    data = jax.profiler.ProfileData.from_file(str(file))
    names = {x.name for p in data.planes for y in p.lines for x in y.events}
    found |= {name for name in names if re.fullmatch(r"mark_\d+_\d+", name)}
  return sorted(found, key=lambda name: int(name.split("_")[1]))


@pytest.mark.quick
@pytest.mark.parametrize(
  ("text", "expected"), [("100:110", (100, 110)), ("7:7", (7, 7))]
)
def test_steps_are_read(text, expected):
  assert profile.read(text) == expected


@pytest.mark.quick
@pytest.mark.parametrize(
  "text",
  ["", "5", "5:", ":5", "0:5", "7:6", "-1:4", "1:2:3", "a:b", "1.5:2", "٣:٤"],
)
def test_other_texts_are_refused(text):
  with pytest.raises(UsageError, match=r"two step numbers such as 100:110"):
    profile.read(text)


@pytest.mark.quick
def test_steps_that_a_run_does_not_have_are_refused():
  steps = profile.Steps(5, 9)
  profile.check(steps, "train", 9)
  profile.check(None, "evaluate", 0)
  for mode, total, told in (
    ("train", 8, "--profile=5:9 goes beyond the end of the training, step 8"),
    ("evaluate", 9, "config.mode=evaluate has none: leave it out"),
    ("train", 0, "config.epochs=0 has none"),
  ):
    with pytest.raises(UsageError, match=told):
      profile.check(steps, mode, total)


def test_the_steps_are_in_the_trace_and_no_others(tmp_path):
  said, calls, found = train(profile.Steps(4, 6), tmp_path)
  assert found == ["mark_4_4", "mark_5_5", "mark_6_6"]
  assert calls == [("pause", 3), ("start", 6)]
  (line,) = said
  assert line.startswith(f"profile: steps 4 to 6 are in {tmp_path}/tensorboard")
  (perfetto,) = tmp_path.glob("tensorboard/plugins/profile/*/perfetto*.json.gz")
  assert perfetto.stat().st_size


def test_programs_of_several_steps_are_traced_whole(tmp_path):
  said, _, found = train(profile.Steps(4, 6), tmp_path, most=5)
  assert found == ["mark_1_5", "mark_6_10"]
  assert "profile: steps 1 to 10 are in" in said[0]


def test_a_resumed_run_traces_what_is_left_or_says_that_it_is_done(tmp_path):
  said, _, found = train(profile.Steps(4, 6), tmp_path, first=5)
  assert found == ["mark_6_6"] and "steps 6 to 6 are" in said[0]
  said, calls, _ = train(profile.Steps(4, 6), tmp_path / "done", first=6)
  assert said == [
    "warning: no profile: steps 4 to 6 were done before this start"
  ]
  assert calls == []


def test_a_stop_ends_the_trace_or_says_that_there_is_none(tmp_path):
  said, _, found = train(profile.Steps(4, 9), tmp_path, stop=5)
  assert found == ["mark_4_4", "mark_5_5"] and "steps 4 to 5 are" in said[0]
  said, _, found = train(profile.Steps(4, 9), tmp_path / "none", stop=3)
  assert said == ["warning: no profile: steps 4 to 9 were not reached"]
  assert found == []


def test_trouble_costs_the_trace_alone(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise OSError(28, "No space left on device")

  for name in ("start_trace", "stop_trace"):
    with monkeypatch.context() as patch:
      patch.setattr(jax.profiler, name, fail)
      said, *_ = train(profile.Steps(4, 6), tmp_path)
    assert said == [
      "warning: no profile: OSError: [Errno 28] No space left on device"
    ]
  jax.profiler.stop_trace()  # which was not stopped above


def test_nothing_is_traced_unasked(tmp_path):
  assert train(None, tmp_path) == ([], [], [])
  assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
def test_the_program_refuses_a_wrong_range_in_one_line(
  config_file, tmp_path, monkeypatch, capsys
):
  told = program_helpers.refusal(
    monkeypatch, capsys, config_file, tmp_path / "run", "--profile=9:3"
  )
  assert told.startswith("error: --profile=9:3 must be two step numbers")
  assert told.count("\n") == 1
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_writes_a_profile(config_file, tmp_path):
  """Two epochs of four steps; the second start traces one of the steps."""
  words = (config_file, tmp_path / "run", "--config.evaluations=knn")
  done = program_helpers.run(*words, "--config.epochs=2", "--profile=3:6")
  assert done.returncode == 0, done.stderr
  assert "profile: steps 3 to 6 are in" in done.stdout
  (folder,) = (tmp_path / "run").glob("tensorboard/plugins/profile/*")
  assert len(list(folder.glob("*.xplane.pb"))) == 1
  starts = json.loads((tmp_path / "run" / "starts.json").read_text())
  assert starts[0]["end_step"] == 8
  again = program_helpers.run(*words, "--config.epochs=2", "--profile=3:6")
  assert (
    "warning: no profile: steps 3 to 6 were done before this start"
    in again.stdout
  )
