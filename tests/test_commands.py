"""The program `essl-jax`: its commands, and wrong input in one line."""

import configparser
import pathlib
import subprocess
import sys

from absl import flags
from PIL import Image
import program_helpers
import pytest

import essl_jax
from essl_jax import command_line, commands, main
from essl_jax import config as config_lib
from essl_jax.config import recipes
from essl_jax.devices import cpu
from essl_jax.storage import weights, workdir

pytestmark = pytest.mark.quick


@pytest.fixture
def start(monkeypatch, capsys):
  """Starts the program in this process: exit code, output and errors."""
  # These settings are of a whole process, and this one continues.
  monkeypatch.setattr(cpu, "choose_kernels", lambda: None)
  monkeypatch.setattr(cpu, "tune", lambda: None)
  monkeypatch.setattr(main.processes, "end", program_helpers.end_this_start)

  def run(*words):
    monkeypatch.setattr(sys, "argv", ["essl-jax", *map(str, words)])
    for name in ("config", "run", "workdir"):  # of the start before
      flags.FLAGS[name].unparse()
    try:
      code = commands.run()
    except SystemExit as end:
      code = end.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err

  return run


def test_help_and_version(start):
  code, out, _ = start("--help")
  assert code == 0 and all(name in out for name in commands.COMMANDS)
  assert start()[1] == out
  assert start("--version")[1].strip() == essl_jax.__version__


def test_every_command_shows_its_own_help(start):
  for name in commands.COMMANDS:
    code, out, err = start(name, "-h")
    assert code == 0 and not err and name in out
    assert start(name, "--help")[1] == out
  assert "evaluate RUN" in start("evaluate", "-h")[1]


def test_weights_that_do_not_say_it_are_asked_for_once(start, tmp_path):
  fields = {"encoder": {"name": "resnet", "depth": 18, "width": 1}}
  weights.save(tmp_path / "old.safetensors", {"params": {}}, fields)
  Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
  out = f"--out={tmp_path / 'a.npz'}"
  words = ("embed", tmp_path / "old.safetensors", tmp_path / "a.png", out)
  code, _, err = start(*words)
  assert code == 2 and err.count("\n") == 1
  assert "give --image-size, --mean, --std" in err
  fields = {"encoder": {"name": "mytrain:Foo"}}
  weights.save(tmp_path / "own.safetensors", {"params": {}}, fields)
  code, _, err = start("embed", tmp_path / "own.safetensors", *words[2:])
  assert code == 2 and "--trust" in err and err.count("\n") == 1


def test_recipes_are_listed_and_shown(start):
  code, out, _ = start("recipes")
  assert code == 0 and len(out.splitlines()) == len(recipes.paths())
  code, out, _ = start("recipes", "folder:small")
  assert code == 0 and "--config.data.dir" in out


@pytest.mark.parametrize(
  "words, expected",
  [
    (["trian"], "did you mean train"),
    (["recipes", "cifar_simcl"], "did you mean cifar_simclr"),
    (["train", "--config=fodler"], "did you mean folder"),
    (["train", "--config=fodler.py"], "does not exist"),
    (["train"], "--config=RECIPE is missing"),
    (["evaluate"], "give the workdir of a run"),
    (["evaluate", "--config.epochs=3"], "evaluate RUN --config.epochs=3"),
    (["evaluate", "EMPTY"], "holds no run"),
    (["embed", "EMPTY"], "IMAGES"),
    (["embed", "EMPTY", "EMPTY", "--out=a.npz"], "holds no images"),
    (["embed", "EMPTY", "EMPTY", "--out=a.txt"], "no known ending"),
    (["embed", "EMPTY", "FILE", "--out=a.npz"], "holds no run"),
    (["embed", "FILE", "FILE", "--out=a.npz"], "as safetensors"),
    (["embed", "EMPTY", "FILE", "--out=a.npz", "--mean=a"], "must be num"),
    (
      ["embed", "EMPTY", "FILE", "--out=a.npz", "--batch-size=0"],
      "at least 1",
    ),
    (["report", "EMPTY"], "no results.json"),
    (["convert", "export", "EMPTY", "a.safetensors"], "holds no run"),
  ],
  ids=lambda x: x if isinstance(x, str) else " ".join(x),
)
def test_wrong_input_is_one_line(words, expected, start, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "file.png").write_text("text")
  names = {"EMPTY": "empty", "FILE": "file.png"}
  code, _, err = start(*(names.get(word, word) for word in words))
  assert code == 2 and expected in err
  assert err.count("\n") == 1 and err.startswith("error: ")


def test_a_runs_own_config_is_read_under_flags(
  tiny_config, tmp_path, monkeypatch
):
  config = tiny_config(seed=3)
  workdir.check_config(tmp_path, config_lib.to_dict(config))
  monkeypatch.setattr(flags.FLAGS["run"], "value", str(tmp_path))
  monkeypatch.setattr(flags.FLAGS["config"], "value", None)
  words = ["--config.mode=evaluate", "--config.probe.epochs=7"]
  found = command_line.load(words, print)
  assert found.mode == "evaluate" and found.seed == 3
  assert found.probe.epochs == 7 and command_line.workdir() == str(tmp_path)


def test_importing_the_package_imports_nothing_else():
  """So it takes no time; names are imported on first use."""
  code = (
    "import sys, importlib; before = set(sys.modules); import essl_jax;"
    " print(*sorted(set(sys.modules) - before))"
  )
  root = pathlib.Path(essl_jax.__file__).parents[1]
  found = subprocess.run(
    [sys.executable, "-S", "-c", code],
    capture_output=True,
    text=True,
    check=True,
    env={"PYTHONPATH": str(root)},
  )
  assert found.stdout.split() == ["essl_jax"]


def test_public_names_are_there():
  assert set(essl_jax.__all__) <= set(dir(essl_jax))
  for name in essl_jax.__all__:
    assert callable(getattr(essl_jax, name))
    assert not (pathlib.Path(essl_jax.__file__).parent / f"{name}.py").exists()
  with pytest.raises(AttributeError, match="lod"):
    essl_jax.lod  # noqa: B018


def test_all_folders_are_packages_of_the_wheel():
  root = pathlib.Path(essl_jax.__file__).parents[1]
  parser = configparser.ConfigParser()
  parser.read(root / "setup.cfg")
  named = parser["options"]["packages"].split()
  there = sorted(
    ".".join(path.parent.relative_to(root).parts)
    for path in (root / "essl_jax").rglob("__init__.py")
  )
  assert named == [*there, "essl_jax._recipes"]
