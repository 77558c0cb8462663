"""Loggers: the calls that they get, and loggers that fail or hang."""

import importlib
import json
import pathlib
import re
import threading
import time

import event_files
import numpy as np
import program_helpers
import pytest

from essl_jax import config as config_lib
from essl_jax import main
from essl_jax.config import flags
from essl_jax.errors import UsageError
from essl_jax.loggers import logger, several
from essl_jax.storage import places

pytestmark = pytest.mark.quick
ROOT = pathlib.Path(__file__).parents[2]

FAKES = '''
import threading
from essl_jax.loggers.logger import Log, Logger

CALLS, RELEASED = [], threading.Event()

class Fake(Logger):
  """Notes what it is told.

  Attributes:
    fails: the call that raises.
    hangs: the call that does not return.
    ident: of the run.
  """

  fails: str = ""
  hangs: str = ""
  ident: str = ""

  def open(self, start):
    self.note("open", start.step, start.name, dict(start.kept))
    start.keep({"id": start.kept.get("id") or self.ident})
    return FakeLog(self)

  def note(self, hook, *arguments):
    CALLS.append((hook, *arguments))
    if self.hangs == hook:
      RELEASED.wait(60)
    if self.fails == hook:
      raise ConnectionError("no network\\nand more")

class FakeLog(Log):
  where = "http://here"

  def __init__(self, fake):
    self.fake = fake

  def write(self, step, figures, time):
    self.fake.note("write", step, figures)

  def picture(self, step, name, png):
    self.fake.note("picture", step, name, png)

  def embedding(self, step, features, labels, images):
    self.fake.note("embedding", step, features.shape, labels, images)

  def flush(self):
    self.fake.note("flush")

  def close(self, is_finished):
    self.fake.note("close", is_finished)
'''
PNG = (
  b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02"
  b"\x00\x00\x00\x90wS\xde\x00\x00\x00\x0cIDATx\x9cc``\x00\x00\x00\x04\x00\x01"
  b"\xf6\x178U\x00\x00\x00\x00IEND\xaeB`\x82"
)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
  """The module with the fake, and no calls yet."""
  (tmp_path / "code").mkdir()
  (tmp_path / "code" / "fakes.py").write_text(FAKES)
  monkeypatch.syspath_prepend(tmp_path / "code")
  module = importlib.import_module("fakes")
  module.CALLS.clear()
  module.RELEASED.clear()
  yield module
  module.RELEASED.set()
  deadline = time.monotonic() + 10
  while several.left_behind() and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not several.left_behind()


@pytest.fixture
def log(fakes, tmp_path, tiny_config):
  """Logs five figures, a picture and an embedding; returns what is said."""

  def log(*names, finish=True, start=0, **options):
    config = tiny_config(loggers=names or ("fakes:Fake",), **options)
    said = []
    workdir = places.locate(tmp_path / "run")
    with several.Loggers(config, workdir, say=said.append) as loggers:
      loggers.begin(start)
      assert not fakes.CALLS
      for step in range(start + 1, start + 6):
        loggers.write(step, {"loss": 1.0}, 5.0)
      loggers.picture(start + 5, "a/b", PNG)
      loggers.embedding(start + 5, np.zeros((2, 3)), ["a", "b"], None)
      loggers.send()
      if finish:
        loggers.finish()
    return said

  return log


def test_all_is_handed_on_in_order_and_the_run_is_kept(log, fakes, tmp_path):
  assert log(fake={"ident": "x1"}) == ["fake: http://here"]
  writes = [("write", step, {"loss": 1.0}) for step in range(1, 6)]
  rest = [
    ("picture", 5, "a/b", PNG),
    ("embedding", 5, (2, 3), ["a", "b"], None),
    ("flush",),
  ]
  assert [
    ("open", 0, "run", {}),
    *writes,
    *rest,
    ("close", True),
  ] == fakes.CALLS
  fakes.CALLS.clear()
  log(fake={"ident": "other"}, start=7, finish=False)
  assert fakes.CALLS[0] == ("open", 7, "run", {"id": "x1"})
  assert fakes.CALLS[-1] == ("close", False)
  kept = json.loads((tmp_path / "run" / "loggers.json").read_text())
  assert kept == {"fake": {"id": "x1"}}


@pytest.mark.parametrize("hook", ["open", "write", "picture", "close"])
def test_one_that_fails_costs_itself_alone(hook, log, fakes, tmp_path):
  said = log("fakes:Fake", "tensorboard", fake={"fails": hook})
  warnings = [line for line in said if line.startswith("warning")]
  assert warnings == [
    "warning: fake logs nothing more until the next start, and nothing else is"
    " lost: ConnectionError: no network"
  ]
  assert [call[0] for call in fakes.CALLS][-1] == hook
  values = [
    value
    for event in event_files.read(tmp_path / "run")
    for value in event.summary.value
  ]
  assert [x.tag for x in values] == 5 * ["loss"] + ["a/b"]
  assert several.left_behind() == []


@pytest.mark.parametrize("hook", ["open", "write", "close"])
def test_one_that_hangs_does_not_hold_the_end(hook, log, fakes, monkeypatch):
  monkeypatch.setattr(several, "END_SECONDS", 0.2)
  begun = time.monotonic()
  said = log(fake={"hangs": hook})
  assert time.monotonic() - begun < 5
  assert said[-1].endswith("nothing else is lost: it did not end in time")
  assert several.left_behind() == ["fake"]


def test_a_failure_of_the_run_waits_less(
  fakes, monkeypatch, tiny_config, tmp_path
):
  monkeypatch.setattr(several, "FAILURE_SECONDS", 0.2)
  monkeypatch.setattr(several, "END_SECONDS", 60)
  config = tiny_config(loggers=("fakes:Fake",), fake={"hangs": "write"})
  begun = time.monotonic()
  with (
    pytest.raises(FloatingPointError),
    several.Loggers(config, places.locate(tmp_path), say=[].append) as made,
  ):
    made.write(1, {"loss": 1.0}, 5.0)
    raise FloatingPointError
  assert time.monotonic() - begun < 5


def test_one_that_does_not_keep_up_is_given_up(log, fakes, monkeypatch):
  monkeypatch.setattr(several, "MOST", 3)
  monkeypatch.setattr(several, "END_SECONDS", 0.2)
  said = log(fake={"hangs": "open"})
  assert said == [
    "warning: fake logs nothing more until the next start, and nothing else is"
    " lost: 3 figures are waiting for it"
  ]


def test_no_logger_opens_nothing(tmp_path, tiny_config):
  workdir = places.locate(tmp_path / "run")
  for config, enabled in (
    (tiny_config(loggers=()), True),
    (tiny_config(), False),
  ):
    with several.Loggers(config, workdir, enabled=enabled) as loggers:
      loggers.write(1, {"loss": 1.0}, 5.0)
      loggers.send()
      assert not loggers.are_there
  with several.Loggers(tiny_config(), workdir):
    pass
  assert not workdir.exists()


def test_what_is_shown_first_comes_before_the_first_figure(
  fakes, tmp_path, tiny_config
):
  config, workdir = tiny_config(loggers=("fakes:Fake",)), tmp_path / "run"
  first = lambda loggers: loggers.picture(0, "views", PNG)
  with several.Loggers(config, places.locate(workdir), first=first) as loggers:
    assert not workdir.exists()
    for step in (1, 2):
      loggers.write(step, {}, 5.0)
  hooks = [call[0] for call in fakes.CALLS]
  assert hooks == ["open", "picture", "write", "write", "close"]


def test_tensorboard_fails_as_other_files_of_the_workdir(tmp_path, tiny_config):
  """It starts no thread, and its errors end the run."""
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "tensorboard").touch()
  threads = threading.active_count()
  with (
    pytest.raises(OSError, match="tensorboard"),
    several.Loggers(tiny_config(), places.locate(tmp_path / "run")) as loggers,
  ):
    assert threading.active_count() == threads
    loggers.write(1, {"loss": 1.0}, 5.0)


def test_tensorboard_of_an_evaluation_hides_nothing(tmp_path, tiny_config):
  """A session that starts at step 0 would hide all that was logged."""
  for step in (0, None):
    loggers = several.Loggers(tiny_config(), places.locate(tmp_path))
    with loggers:
      if step is not None:
        loggers.begin(step)
      loggers.write(8, {"loss": 1.0}, 5.0)
  sessions = [x for x in event_files.read(tmp_path) if x.session_log.status]
  assert len(sessions) == 1


def test_loggers_are_free_and_have_fields(tiny_config, fakes):
  config = tiny_config(loggers=("wandb", "fakes:Fake"), wandb={"project": "p"})
  assert config.wandb.project == "p"
  free = config_lib.free_fields(config)
  assert {"loggers", "wandb", "mlflow", "fake"} <= set(free)
  wandb, fake = config_lib.loggers(config)
  assert (wandb.project, fake.section) == ("p", "fake")
  assert tiny_config().loggers == ("tensorboard",)
  with pytest.raises(UsageError, match=r"unknown config.loggers 'tensorbord'"):
    tiny_config(loggers=("tensorbord",))
  by_flag = flags.load(
    "quickstart", ["--config.loggers=mlflow", "--config.mlflow.uri=here"]
  )
  assert by_flag.mlflow.uri == "here"


def test_a_missing_package_is_refused_before_anything_is_written(
  config_file, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(logger.importlib.util, "find_spec", lambda _: None)
  told = program_helpers.refusal(
    monkeypatch,
    capsys,
    config_file,
    tmp_path / "run",
    "--config.loggers=tensorboard,wandb",
  )
  assert told == (
    "error: config.loggers names wandb, which is not installed: pip install"
    " 'essl-jax[wandb]'\n"
  )
  assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
  (tmp_path / "not_a_package").mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UsageError, match="not_a_package, which is not installed"):
    logger.need("not_a_package", "extra")
  (tmp_path / "broken_package.py").write_text("raise RuntimeError('no')")
  with pytest.raises(UsageError, match="cannot be imported: RuntimeError: no"):
    logger.need("broken_package", "extra")


@pytest.mark.parametrize(("left", "code"), [(["wandb"], 3), ([], 3)])
def test_the_program_ends_without_those_left_behind(
  left, code, monkeypatch, capsys
):
  ended = []
  monkeypatch.setattr(several, "left_behind", lambda: left)
  monkeypatch.setattr(main.app, "run", lambda *_, **__: main.app.sys.exit(3))
  monkeypatch.setattr(
    main.processes, "end", lambda *words, **_: ended.append(words)
  )
  if left:
    main.run()
    assert ended == [(code, "the program ends without its loggers")]
  else:
    with pytest.raises(SystemExit) as end:
      main.run()
    assert (end.value.code, ended) == (code, [])


def test_the_logger_of_the_docs_works(tmp_path, monkeypatch, tiny_config):
  page = ROOT / "docs" / "watching.md"
  (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  (tmp_path / "watched_idea.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  config = tiny_config(loggers=("watched_idea:Slow",), slow={"bound": 2.0})
  workdir = places.locate(tmp_path / "run")
  with several.Loggers(config, workdir) as loggers:
    for step, loss in enumerate((3.0, 1.5, 2.5)):
      loggers.write(step, {"loss": loss}, 5.0)
  assert (workdir / "high.txt").read_text() == "0\n2\n"


def test_a_flag_switches_all_loggers_off():
  assert flags.load("quickstart", ["--config.loggers="]).loggers == ()
