"""The parts of a run that a config chooses by name: methods, encoders, ...

A part is a class or a function, and its parameters are fields of the config
(see `fields.of`). Its name is that of its module in the package of its kind, or
`module:Name` for a user's module. A folder of `essl_jax` may bring parts of
several kinds, in files such as `encoder.py`; they have the folder's name.
"""

import abc
import dataclasses
import functools
import importlib
import inspect
import pathlib
import pkgutil
import re
from typing import Any, ClassVar, dataclass_transform

import essl_jax
from essl_jax.config import fields
from essl_jax.errors import UsageError, told

_CONSTANT = "PART"  # the name of the part in its module


@dataclass_transform(frozen_default=True, kw_only_default=False)
class Part(abc.ABC):  # noqa: B024 - those of each kind have methods
  """A part with fields: subclasses become frozen dataclasses."""

  section: ClassVar[str] = ""

  def __init_subclass__(cls, **options: Any) -> None:
    super().__init_subclass__(**options)
    dataclasses.dataclass(frozen=True)(cls)
    if "section" not in cls.__dict__:
      cls.section = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of part.

  Attributes:
    field: the config's field that chooses parts of this kind.
    package: the package below `essl_jax` whose modules are known parts.
    module: the name of the module in folders with parts of several kinds.
    base: `module:Name` of the base class; empty for functions.
    noun: its name in messages.
  """

  field: str
  package: str
  module: str
  base: str
  noun: str

  def names(self) -> list[str]:
    """The names of all known parts of this kind."""
    return sorted(_modules(self.package, self.module))

  def find(self, name: str) -> Any:
    """Finds a part by its name.

    Args:
      name: a known part, or `module:Name` of a module beside the recipe or in
        the current folder.

    Returns:
      The class or the function.

    Raises:
      UsageError: there is no such part, it cannot be imported, or it is of
        another kind.
    """
    if is_path(name):
      return self._check(name, self._import(name))
    modules = _modules(self.package, self.module)
    if name not in modules:
      raise UsageError(
        f"unknown config.{self.field} {name!r}; there are:"
        f" {', '.join(sorted(modules))}, or module:Name of your own"
      )
    return getattr(importlib.import_module(modules[name]), _CONSTANT)

  def _import(self, name: str) -> Any:
    where = f"config.{self.field}={name}"
    module, _, attribute = name.partition(":")
    with told(f"{where}: {module} cannot be imported"):
      try:
        found = importlib.import_module(module)
      except ModuleNotFoundError as error:
        if error.name is None:
          raise
        if f"{module}.".startswith(f"{error.name}."):
          raise UsageError(
            f"{where}: there is no module {error.name}: put it beside the"
            " recipe or into the current folder"
          ) from error
        raise UsageError(f"{where}: {module} needs {error.name}") from error
    if not hasattr(found, attribute):
      there = ", ".join(x for x in vars(found) if x[0] != "_") or "no names"
      raise UsageError(f"{where}: {module} has no {attribute}; it has {there}")
    return getattr(found, attribute)

  def _check(self, name: str, found: Any) -> Any:
    is_class = isinstance(found, type)
    base = pkgutil.resolve_name(self.base) if self.base else None
    if base:
      wanted = f"a subclass of {self.base.replace(':', '.')}"
      fits = is_class and issubclass(found, base)
    else:
      wanted = "a function that returns a source"
      fits = callable(found) and not is_class
    if not fits:
      raise UsageError(
        f"config.{self.field}={name}: {self.noun} must be {wanted}, but this"
        f" is {found!r:.80}"
      )
    if inspect.isabstract(found):
      missing = ", ".join(sorted(found.__abstractmethods__))
      raise UsageError(f"config.{self.field}={name} does not define {missing}")
    for field in fields.of(found) if base else ():
      if hasattr(base, field) and field not in fields.of(base):
        raise UsageError(
          f"config.{self.field}={name}: {field} cannot be a field, since"
          f" {self.noun} already uses that name: leave out its type, or"
          " rename it"
        )
    return found


@functools.cache
def _modules(package: str, module: str) -> dict[str, str]:
  """The modules that define a part of a kind, by the part's name."""
  root = pathlib.Path(essl_jax.__file__).parent
  found = {}
  for path in (root / package).glob("*.py"):
    if re.search(rf"^{_CONSTANT} = ", path.read_text("utf-8"), re.M):
      found[path.stem] = f"essl_jax.{package}.{path.stem}"
  for path in root.glob(f"*/{module}.py"):
    if path.parent.name != package:
      found[path.parent.name] = f"essl_jax.{path.parent.name}.{module}"
  return found


METHOD = Kind(
  "method", "methods", "method", "essl_jax.methods.method:Method", "a method"
)
TERM = Kind(
  "terms",
  "equivariance",
  "term",
  "essl_jax.equivariance.term:Term",
  "an equivariance term",
)
ENCODER = Kind(
  "encoder.name", "models", "encoder", "flax.linen:Module", "an encoder"
)
SOURCE = Kind("data.name", "data", "source", "", "a source of images")
EVALUATION = Kind(
  "evaluations",
  "evaluation",
  "evaluation",
  "essl_jax.evaluation.evaluation:Evaluation",
  "an evaluation",
)
LOGGER = Kind(
  "loggers",
  "loggers",
  "logger",
  "essl_jax.loggers.logger:Logger",
  "a logger",
)


def is_path(name: str) -> bool:
  """Whether a name is `module:Name`; `cifar10:3.0.2` of TFDS is not."""
  module, _, attribute = name.partition(":")
  parts = [*module.split("."), attribute]
  return all(part.isidentifier() for part in parts)
