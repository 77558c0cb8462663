"""Odd streams and odd environments: one line, or no difference at all."""

import os
import subprocess
import sys

import program_helpers
import pytest

from essl_jax import errors
from essl_jax.evaluation import drawing

# Prints what ASCII has not, and more lines than a pipe holds.
PROGRAM = """
import sys
from essl_jax import arguments

@arguments.tells_wrong_input
def main():
  parser = arguments.Parser()
  parser.add_argument("--lines", type=int, default=1)
  for _ in range(parser.parse_args().lines):
    print("λ = 1 – 2 \\udcff")
  return 0

sys.exit(main())
"""


def run(words, variables=(), **streams):
  """How a process ends, and what it prints."""
  streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
  done = subprocess.run(
    [sys.executable, *words],
    env=program_helpers.environment()
    | {"PYTHONUNBUFFERED": ""}
    | dict(variables),
    text=True,
    timeout=120,
    check=False,
    **streams,
  )
  return done.returncode, done.stdout, done.stderr


def test_a_character_without_a_code_is_escaped():
  variables = {"PYTHONIOENCODING": "ascii"}
  escaped = "\\u03bb = 1 \\u2013 2 \\udcff\n"
  assert run(["-c", PROGRAM], variables) == (0, escaped, "")
  variables = {"PYTHONIOENCODING": "utf-8"}
  assert run(["-c", PROGRAM], variables) == (0, "λ = 1 – 2 \\udcff\n", "")


def test_streams_may_be_closed():
  """The next file that is opened does not take their place."""
  shell = 'exec "$0" -c "$1" "$@" <&- >&- 2>&-'
  done = subprocess.run(
    ["bash", "-c", shell, sys.executable, PROGRAM],
    env=program_helpers.environment(),
    check=False,
    timeout=120,
  )
  assert done.returncode == 2  # the program is an argument of itself
  script = "import os; os.fstat(2); print(os.open('/', os.O_RDONLY))"
  script = f"from essl_jax import streams; streams.prepare(); {script}"
  done = subprocess.run(
    ["bash", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, script],
    env=program_helpers.environment(),
    stdout=subprocess.PIPE,
    check=False,
    timeout=120,
  )
  assert done.returncode == 0
  assert int(done.stdout) > 2


@pytest.mark.parametrize("words", [[], ["--lines=1"], ["--help"]])
def test_the_reader_may_leave(words):
  """As with `| head`; at exit, Python itself would print a stack trace."""
  reading, writing = os.pipe()
  os.close(reading)
  with os.fdopen(writing, "w") as pipe:
    code, _, error = run(["-c", PROGRAM, *words], stdout=pipe)
  assert (code, error) == (0, "")


def test_a_reader_that_leaves_in_the_middle_is_told():
  reading, writing = os.pipe()
  os.close(reading)
  with os.fdopen(writing, "w") as pipe:
    code, _, error = run(["-c", PROGRAM, "--lines=9999"], stdout=pipe)
  assert code == 1
  assert error.startswith("error: Broken pipe: ")
  assert len(error.splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only on Linux")
def test_a_full_disk_below_stdout_is_told():
  with open("/dev/full", "w") as full:
    code, _, error = run(["-c", PROGRAM], stdout=full)
  assert (code, len(error.splitlines())) == (1, 1)
  assert "No space left on device" in error


def test_ctrl_c_is_no_trace(capsys):
  from essl_jax import arguments

  @arguments.tells_wrong_input
  def main():
    raise KeyboardInterrupt

  assert main() == 130
  assert capsys.readouterr().err == "error: stopped by Ctrl-C\n"


PROGRAMS = ("main", "convert", "config", "report", "photonics.generate")


@pytest.mark.parametrize("program", PROGRAMS)
def test_variables_that_jax_refuses_are_one_line(program):
  """JAX reads them when it is imported."""
  variable = {"JAX_ENABLE_X64": "maybe"}
  words = ["-m", f"essl_jax.{program}", "--no-such-flag"]
  code, _, error = run(words, variable)
  assert (code, len(error.splitlines())) == (2, 1), error
  assert error.startswith("error: JAX cannot be imported (")
  assert "JAX_ENABLE_X64" in error


STUDIES = ("cifar10_table.py", "photonics_table.py")
STUDIES += tuple(
  f"profiling/{x}.py" for x in ("benchmark", "growth", "time_to_accuracy")
)


@pytest.mark.slow
@pytest.mark.parametrize("program", STUDIES)
def test_variables_that_jax_refuses_are_one_line_of_experiments(program):
  path = program_helpers.ROOT / "experiments" / program
  code, _, error = run([path], {"JAX_NUM_CPU_DEVICES": "abc"})
  assert (code, len(error.splitlines())) == (2, 1), error
  assert "jax_num_cpu_devices" in error


@pytest.mark.parametrize(
  ("error", "says"),
  [
    (
      RuntimeError("Unable to initialize backend 'cpu': INVALID\nand more"),
      "JAX_NUM_CPU_DEVICES",
    ),
    (RuntimeError("Unknown backend abc"), "JAX_PLATFORMS"),
    (RuntimeError("Could not determine home directory."), "write out the path"),
    (RuntimeError("Symlink loop from '/a'"), "'/a': remove the link"),
    (
      RuntimeError("Disallowed host-to-device transfer: aval=uint32[]"),
      "unset JAX_TRANSFER_GUARD",
    ),
    (OSError(36, "File name too long", "/a"), "/a: File name too long"),
    (errors.UsageError("no file a\nb\x1b[2J"), r"no file a\nb\x1b[2J"),
  ],
)
def test_what_is_expected_of_environments_and_names_is_one_line(error, says):
  line, code = errors.line_and_code(error)
  assert code == 2
  assert says in line and line.isprintable()


def test_a_wrong_backend_of_matplotlib_costs_no_picture(tmp_path):
  """A wrong MPLBACKEND makes its import fail, and no picture needs a window."""
  path = tmp_path / "a.png"
  code = (
    "import os, sys; from essl_jax.evaluation import drawing;"
    "open(sys.argv[1], 'wb').write(drawing.to_png(drawing.make_axes(2)[0]));"
    "assert os.environ['MPLBACKEND'] == 'nonsense'"
  )
  assert run(["-c", code, path], {"MPLBACKEND": "nonsense"})[::2] == (0, "")
  assert path.read_bytes().startswith(b"\x89PNG")
  assert drawing.make_figure(figsize=(2, 1)).get_figwidth() == 2
