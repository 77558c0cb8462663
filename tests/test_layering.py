"""Imports point downward, as the table in CONTRIBUTING.md says."""

import ast
import pathlib

import pytest

from essl_jax.config import parts

pytestmark = pytest.mark.quick

PACKAGE = pathlib.Path(__file__).parents[1] / "essl_jax"
# Each may import what stands in the rows above, and itself.
ROWS = (
  ("start", "streams", "texts"),
  ("errors",),
  ("arguments", "devices"),
  ("config",),
  ("storage",),
  ("loggers",),
  ("inputs",),
  ("transformations", "models", "losses", "optim"),
  ("augment",),
  ("methods",),
  ("equivariance",),
  ("data",),
  ("training",),
  ("evaluation",),
  ("photonics", "convert"),
  ("report",),
  ("run",),
  ("api",),
  ("process_flags", "command_line"),
  ("main",),
  ("commands",),
  ("__main__",),
)
PURE = {"inputs", "transformations", "models", "losses", "optim", "augment"}
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}


def _imports(path):
  """The parts of the package that a file imports, whenever it does."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      top, *rest = name.split(".")
      if top == "essl_jax" and rest and rest[0] != "__version__":
        yield rest[0]


def _parts():
  for path in sorted(PACKAGE.rglob("*.py")):
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if part != "__init__":
      yield part, path


@pytest.mark.parametrize("part", sorted({part for part, _ in _parts()}))
def test_imports_point_downward(part):
  assert part in RANK, f"{part} has no row: say what it may import"
  for owner, path in _parts():
    for name in _imports(path) if owner == part else ():
      where = f"{path.relative_to(PACKAGE)} imports {name}"
      assert name == part or RANK[name] < RANK[part], where
      assert part not in PURE or name in PURE, where


KINDS = (
  parts.METHOD,
  parts.ENCODER,
  parts.TERM,
  parts.SOURCE,
  parts.EVALUATION,
  parts.LOGGER,
)
# `none` also names norms, protocols and what is absent, and `parameters` what
# is told of a view.
KNOWN = {name for kind in KINDS for name in kind.names()}
KNOWN -= {"none", "parameters"}
# Files that may write the names of known parts, and why.
MAY_NAME = {
  "config/config.py": "the defaults, and a mode that is called finetune",
  "config/parsing.py": "the defaults that a recipe begins with",
  "config/older.py": "configs that were written before parts were chosen",
  "convert/__main__.py": "PyTorch weights are those of ResNets",
  "evaluation/bench.py": "the mode finetune",
  "evaluation/results.py": "the mode finetune; the folder probe of a workdir",
  "evaluation/classifier.py": "the folder probe of a workdir",
  "evaluation/transfer.py": "sets that are measured unless others are named",
  "evaluation/transfer_sets.py": "a set may be a folder of images",
  "storage/bookkeeping.py": "the folder tensorboard of a workdir",
  "training/profile.py": "the folder tensorboard of a workdir",
  "photonics/regression.py": "the folder probe of a workdir",
  "losses/__init__.py": "functions that are called like their methods",
  "equivariance/sie.py": "a part of its loss is called prediction",
  "equivariance/stl.py": "a part of its loss is called transformation",
}


def _names(path):
  """The known parts whose names are texts in a file, not their own."""
  own = {path.stem, *path.relative_to(PACKAGE).parts}
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Constant) and node.value in KNOWN - own:
      yield node.value


def test_known_parts_are_named_by_nobody():
  """Parts of this package use only the extension points, as a user's do."""
  assert len(KNOWN) > 15
  for part, path in _parts():
    where = path.relative_to(PACKAGE).as_posix()
    assert where in MAY_NAME or not list(_names(path)), where
    if part != "photonics":
      text = path.read_text(encoding="utf-8").lower()
      assert "photonic" not in text, path


def _private(tree):
  """Uses of private names that are not one's own, as they are written."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      owner, name = ast.unparse(node.value), node.attr
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        if (node.module or "").startswith("essl_jax"):
          yield node.module, alias.name
      continue
    elif isinstance(node, ast.Call) and len(node.args) > 1:
      if not ast.unparse(node.func).endswith(("setattr", "getattr")):
        continue
      given = node.args[1]
      if not isinstance(given, ast.Constant):
        continue
      owner, name = ast.unparse(node.args[0]), str(given.value)
    else:
      continue
    # A named tuple's `_replace` is public, and so is `sys._getframe`.
    if owner not in ("self", "sys") and name != "_replace":
      yield owner, name


TESTS = sorted(pathlib.Path(__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_private_names_are_not_tested(path):
  """If a test needs a name, it should be public."""
  tree = ast.parse(path.read_text(encoding="utf-8"))
  found = [
    f"{owner}.{name}"
    for owner, name in _private(tree)
    if name.startswith("_") and not name.endswith("__")
  ]
  assert not found
