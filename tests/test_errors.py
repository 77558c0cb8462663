"""Failures of the machine, wrong input and bugs are distinguished."""

import errno
import os

import jax
import pytest

from essl_jax import arguments, errors
from essl_jax import config as config_lib
from essl_jax.devices import parallel
from essl_jax.errors import UsageError

pytestmark = pytest.mark.quick

QUICKSTART = {
  "method": "simclr",
  "data": {"name": "digits"},
  "temperature": 0.5,
}
# As TensorStore writes it, and Orbax raises it.
OF_ORBAX = (
  'RESOURCE_EXHAUSTED: Error writing local file "/runs/a/checkpoints/1/state":'
  ' Failed to open: "/runs/a/checkpoints/1/state.__lock": No space left on'
  " device [os_error_code='28']\nat a place of its source"
)


def raised(error, cause=None):
  """An error as it is caught, with its cause."""
  try:
    raise error from cause
  except type(error) as caught:
    return caught


@pytest.mark.parametrize(
  ("error", "says"),
  [
    (
      OSError(errno.ENOSPC, "No space left on device", "/a/b"),
      "/a/b: No space",
    ),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "raise the quota"),
    (OSError(errno.EIO, "Input/output error", b"/a"), "/a: Input/output error"),
    (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
    (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    (OSError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
    (MemoryError(), "not enough memory"),
    (MemoryError("Unable to allocate 9 GiB\nfor an array"), "9 GiB"),
    (
      jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nBuffers:"
      ),
      "Out of memory allocating 99 bytes)",
    ),
    (
      ValueError(OF_ORBAX),
      "/runs/a/checkpoints/1/state: No space left on device: make room",
    ),
    (RuntimeError("can't start new thread"), "threads"),
    (ImportError("/a.so: Cannot allocate memory"), "not enough memory"),
    (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "not enough"),
    (FloatingPointError("not finite at step 3"), "not finite at step 3"),
    (OSError("Forbidden: b/bucket/o\nno access"), "check the network and the"),
    (
      FileNotFoundError(
        "http://127.0.0.1:9/upload/storage/v1/b/a/o?upload_id=1"
      ),
      "check the network and the",
    ),
  ],
)
def test_trouble_is_one_line_and_code_1(error, says):
  """Also if a library reports it as wrong input."""
  line, code = errors.line_and_code(raised(error))
  assert (code, says in line) == (1, True), line
  assert "\n" not in line
  if errors.describe_trouble(error):
    wrapped = raised(UsageError("the file is damaged: remove it"), error)
    assert errors.line_and_code(wrapped) == (line, 1)


def test_wrong_input_is_code_2_and_bugs_are_no_line():
  """An input that is missing or cannot be parsed is no trouble."""
  for cause in (None, FileNotFoundError(errno.ENOENT, "no", "/a"), KeyError(3)):
    error = raised(UsageError("give another file"), cause)
    assert errors.line_and_code(error) == ("give another file", 2)
  out_of_memory = UsageError("config.data: no notes of out of memory errors")
  assert errors.line_and_code(raised(out_of_memory))[1] == 2
  for bug in (ValueError("bad"), KeyError("x"), AssertionError()):
    assert errors.line_and_code(raised(bug)) is None


def test_a_message_that_quotes_an_endless_value_stays_a_line():
  with pytest.raises(UsageError) as caught:
    config_lib.parse(QUICKSTART | {"optimizer": "9" * 10**6})
  line, code = errors.line_and_code(caught.value)
  assert code == 2 and len(line) < 4000
  assert line.startswith("config.optimizer must be a group of fields, got '999")
  assert "characters left out]999" in line


@pytest.mark.parametrize(
  ("code", "says"),
  [
    (errno.ENAMETOOLONG, "at most 255 bytes, and a path 4095: give a shorter"),
    (errno.ELOOP, "its links form a circle: give another path"),
  ],
)
def test_a_path_that_cannot_be_is_wrong_input(code, says):
  error = OSError(code, os.strerror(code), "/a/path")
  line, number = errors.line_and_code(error)
  assert line.startswith("/a/path: ") and says in line and number == 2


def test_names_of_files_do_not_break_the_line():
  """Names may contain anything, and messages quote them."""
  name = "a\nb\x1b[2J\ud8ff"
  for error in (
    UsageError(f"{name} is missing"),
    OSError(errno.EACCES, "Permission denied", name),
    OSError(errno.ENOSPC, "No space left on device", name),
  ):
    line, _ = errors.line_and_code(error)
    assert r"a\nb\x1b[2J\ud8ff" in line and line.isprintable()


def test_errors_that_hold_each_other_come_to_an_end():
  """A cause of a cause may be the error itself."""
  first, second = ValueError("a"), ValueError("b")
  first.__cause__, second.__cause__ = second, first
  assert errors.line_and_code(first) is None


def test_an_error_that_cannot_say_what_it_is():
  class MuteError(Exception):
    def __str__(self):
      raise RuntimeError("no text")

  assert errors.line_and_code(MuteError()) is None
  with pytest.raises(UsageError, match="mine: MuteError"), errors.told("mine"):
    raise MuteError


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
  gone = tmp_path / "gone"
  gone.mkdir()
  monkeypatch.chdir(gone)
  gone.rmdir()
  with pytest.raises(FileNotFoundError) as error:
    os.getcwd()
  line, code = errors.line_and_code(error.value)
  assert (code, line.count("\n")) == (1, 0)
  assert line.startswith("the current folder has been removed")


def test_a_users_code_is_not_blamed_for_trouble():
  """What a source or an evaluation raises for a full disk passes `told`."""
  for error in (MemoryError(), OSError(errno.ENOSPC, os.strerror(28))):
    with pytest.raises(type(error)), errors.told("config.data.name=mine:Mine"):
      raise error
  missing = FileNotFoundError(errno.ENOENT, "No such file", "/a")
  with (
    pytest.raises(UsageError, match="mine:Mine: FileNotFoundError.*'/a'"),
    errors.told("config.data.name=mine:Mine"),
  ):
    raise missing


def test_other_programs_end_alike(capsys):
  """A function of a command line returns the code; a bug passes."""

  @arguments.tells_wrong_input
  def program(error):
    raise error

  assert program(UsageError("give --out")) == 2
  assert program(OSError(errno.ENOSPC, "No space left on device")) == 1
  first, second = capsys.readouterr().err.splitlines()
  assert first == "error: give --out"
  assert second.startswith("error: No space left on device: make room")
  with pytest.raises(ZeroDivisionError):
    program(ZeroDivisionError())


@pytest.mark.parametrize(
  "error", [RuntimeError("Backend 'abc' is not known\nmore"), AssertionError()]
)
def test_a_platform_that_is_not_there_is_wrong_input(error, monkeypatch):
  """JAX 0.10 raises an AssertionError for CUDA without its plugin."""

  def fail():
    raise error

  monkeypatch.setenv("JAX_PLATFORMS", "abc")
  monkeypatch.setattr(jax, "devices", fail)
  with pytest.raises(UsageError, match=r"JAX_PLATFORMS=abc .*set JAX_PL.*=cpu"):
    parallel.make_mesh()


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("JAX_NUM_CPU_DEVICES", "1000000"),
    ("XLA_FLAGS", "--a=b --xla_force_host_platform_device_count=99999"),
  ],
)
def test_absurdly_many_simulated_devices_are_refused(name, value, monkeypatch):
  """JAX would make them, one after the other."""
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
  monkeypatch.setenv(name, value)
  with pytest.raises(UsageError, match="at most 1024 in JAX_NUM_CPU_DEVICES"):
    parallel.all_devices()
