"""A run's log that also writes to TensorBoard."""

import contextlib
import types
from unittest import mock

from essl_jax.loggers import several
from essl_jax.storage import logs, places


@contextlib.contextmanager
def logger_of(workdir, **options):
  """As `logs.Logger`."""
  config = types.SimpleNamespace(loggers=("tensorboard",))
  with mock.patch("essl_jax.config.to_dict", lambda _: {}):
    others = several.Loggers(config, places.locate(workdir))
    others.begin(options.get("start_step", 0))
    with others, logs.Logger(workdir, others=others, **options) as logger:
      yield logger
