"""Weights & Biases."""

from collections.abc import Mapping
import io
import netrc
import os
import secrets
from typing import Any, Literal
import urllib.parse

from essl_jax.errors import UsageError
from essl_jax.loggers.logger import Log, Logger, Start, need

_SERVER = "https://api.wandb.ai"
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
# W&B then leaves the terminal alone, and ends before it is given up.
_SETTINGS = {"console": "off", "silent": True, "finish_timeout": 8.0}


class Wandb(Logger):
  """Weights & Biases; all starts of a run log to one W&B run.

  Attributes:
    project: of the run.
    entity: user or team of the run; by default your own.
    mode: `online`, or `offline`, which writes to `<workdir>/wandb` for a later
      `wandb sync`. The default is the variable `WANDB_MODE` or, if that is not
      set, `online`.
  """

  project: str = "essl_jax"
  entity: str | None = None
  mode: Literal["online", "offline"] | None = None

  def check(self) -> None:
    """Refuses a missing package, and a missing key, which W&B would ask for."""
    need("wandb", "wandb")
    mode = self.mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not _has_key():
      raise UsageError(
        "config.loggers names wandb, which has no API key: run `wandb login`"
        " first, or add --config.wandb.mode=offline"
      )

  def open(self, start: Start) -> Log:
    """Starts a run, or resumes the one whose id was kept."""
    import wandb

    run_id = start.kept.get("id") or secrets.token_hex(4)
    start.keep({"id": run_id})
    known = getattr(wandb.Settings, "model_fields", _SETTINGS)
    settings = {name: x for name, x in _SETTINGS.items() if name in known}
    run = wandb.init(
      id=run_id,
      resume="allow",
      name=start.name,
      project=self.project,
      entity=self.entity,
      mode=self.mode,
      dir=str(start.folder),
      config=dict(start.config),
      allow_val_change=True,
      settings=wandb.Settings(**settings),
    )
    # W&B's own steps can only increase, and a resumed run repeats some.
    run.define_metric("*", step_metric="step")
    return _Run(run)


class _Run(Log):
  def __init__(self, run: Any):
    self._run = run
    folder = os.path.dirname(run.dir)
    sent = f"offline; `wandb sync {folder}` uploads it"
    self.where = (
      sent if run.offline else str(run.url or "disabled, logs nothing")
    )

  def write(self, step: int, figures: Mapping[str, float], time: float) -> None:
    self._run.log({"step": step, **figures})

  def picture(self, step: int, name: str, png: bytes) -> None:
    from PIL import Image
    import wandb

    image = wandb.Image(Image.open(io.BytesIO(png)))
    self._run.log({"step": step, name: image})

  def close(self, is_finished: bool) -> None:
    self._run.finish(exit_code=0 if is_finished else 1)


def _has_key() -> bool:
  if any(os.environ.get(name) for name in _KEYS):
    return True
  server = os.environ.get("WANDB_BASE_URL") or _SERVER
  host = urllib.parse.urlsplit(server).netloc
  path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
  try:
    return netrc.netrc(path).authenticators(host) is not None
  except (OSError, ValueError, netrc.NetrcParseError):
    return False


PART = Wandb
