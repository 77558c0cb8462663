"""The program's flags; wrong ones end it with one line."""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import sys

from absl import flags

from essl_jax import config as config_lib
from essl_jax.config import flags as config_flags
from essl_jax.errors import UsageError

CONFIG = flags.DEFINE_string(
  "config", None, "A config file, with variants after a colon."
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where everything is written; runs/<config> by default."
)
STOP_CODE = flags.DEFINE_integer(
  "stop_code",
  0,
  "Exit code of a run that SIGTERM stopped before its end, for launchers that"
  " have to tell it from a finished one.",
  0,
  125,
)


def parse(arguments: Sequence[str]) -> list[str]:
  """Parses the command line; `--help` shows all flags and ends the program.

  Args:
    arguments: the program's name and what follows it.

  Returns:
    The program's name, then the flags of the config's fields.

  Raises:
    UsageError: an unknown flag, or no config file.
  """
  joined = _joined(arguments)
  overrides = [word for word in joined[1:] if config_flags.is_flag(word)]
  others = [word for word in joined if word not in overrides]
  is_help = any(x.lstrip("-") in ("help", "helpfull") for x in others[1:])
  _check_flagfiles(others)
  try:
    rest = flags.FLAGS([x for x in others if x.lstrip("-") != "help"])
  except flags.Error as error:
    raise UsageError(" ".join(str(error).split())) from error
  if is_help:
    with contextlib.suppress(BrokenPipeError):  # as of `--help | head`
      _print_help(overrides)
    sys.exit(0)
  if WORKDIR.value == "":
    raise UsageError("--workdir is empty: name a folder, or leave it out")
  if CONFIG.value is None:
    stray = f" (did you mean --config={rest[1]}?)" if rest[1:] else ""
    raise UsageError(
      f"--config=FILE is missing{stray}; see configs/ for the recipes"
    )
  if rest[1:]:
    raise UsageError(f"not a flag: {rest[1]}; fields are --config.NAME=VALUE")
  return [rest[0], *overrides]


def _check_flagfiles(words: Sequence[str]) -> None:
  """Refuses files of flags that have no end, before they are read."""
  for name, value in zip(words, [*words[1:], ""], strict=True):
    flag, equals, path = name.partition("=")
    path = path if equals else value
    if flag.lstrip("-") == "flagfile" and not os.path.isfile(path):
      raise UsageError(f"--flagfile={path} is no file: name a file of flags")


def _joined(arguments: Sequence[str]) -> list[str]:
  """Flags of fields and their values as one word each."""
  found: list[str] = []
  words = iter(arguments)
  for word in words:
    is_whole = "=" in word or not word.startswith("--config.")
    following = None if is_whole else next(words, None)
    if following is None:
      found.append(word)
    elif following.startswith("-") and not following[1:2].isdigit():
      found += [word, following]
    else:
      found.append(f"{word}={following}")
  return found


def _print_help(overrides: Sequence[str]) -> None:
  """The program's flags, then the fields of the config that is given."""
  print("python -m essl_jax.main --config=FILE[:VARIANT,...] [FLAGS]\n")
  for module in ("essl_jax.command_line", "essl_jax.process_flags"):
    print(flags.FLAGS.module_help(module))
  if CONFIG.value is None:
    print("\nWith --config=FILE, all fields of its config follow here.")
    return
  values = config_flags.raw(CONFIG.value, overrides)
  kind = config_lib.schema(values)
  print(f"\nFields of {CONFIG.value}:")
  print("\n".join(config_flags.describe(kind, values)))


def default_workdir() -> str:
  """`runs/` and the config's name with its variants."""
  path, _, variants = (CONFIG.value or "").partition(":")
  suffix = "".join(f"-{part}" for part in variants.split(",") if part)
  suffix = suffix.replace("=", "")
  return os.path.join("runs", pathlib.Path(path).stem + suffix)
