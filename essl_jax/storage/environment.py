"""The environment of a run: versions, devices, commit."""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

import essl_jax
from essl_jax.devices import parallel

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "tensorflow",
  "tensorflow-cpu",
  "tensorflow-datasets",
)


def describe() -> dict[str, Any]:
  """Returns what a result depends on: versions, devices, source.

  Returns:
    Versions by package (None if not installed), `device_kind`, `device_count`
    (of all processes), `process_count`, and `git_commit`: the commit of the
    checkout that the package runs from, with "-dirty" if tracked files have
    changed, or None outside a checkout.
  """
  return {
    "essl_jax": essl_jax.__version__,
    "python": platform.python_version(),
    **{name: _version(name) for name in _PACKAGES},
    "device_kind": parallel.all_devices()[0].device_kind,
    "device_count": jax.device_count(),
    "process_count": jax.process_count(),
    "git_commit": git_commit(pathlib.Path(__file__).resolve().parents[2]),
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def git_commit(source: pathlib.Path) -> str | None:
  """Returns the commit of a checkout whose top directory is `source`."""

  def git(*arguments: str) -> str:
    command = ["git", "-C", str(source), *arguments]
    return subprocess.run(
      command,
      check=True,
      capture_output=True,
      text=True,
      timeout=10,
      errors="replace",
    ).stdout.strip()

  try:
    # An installed package may lie inside a checkout of another project.
    if pathlib.Path(git("rev-parse", "--show-toplevel")) != source:
      return None
    is_dirty = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("-dirty" if is_dirty else "")
  except (OSError, subprocess.SubprocessError):
    return None
